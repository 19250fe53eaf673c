"""What all optimizers share: groups, the flat buffer whatever the user does, the state, copies."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from compyute_transformer.arrays import Array
from compyute_transformer.errors import ConfigError, ShapeError, StateError
from compyute_transformer.nn import FeedForward, Linear, Module, ModuleList, Parameter
from compyute_transformer.optim import SGD, AdamW, decay_groups
from compyute_transformer.optim.flat import FlatBuffer
from compyute_transformer.verify import relative_error

OPTIMIZERS = [AdamW, SGD]


class Two(Module):
    """A feed-forward layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = ModuleList([FeedForward(4, 8)])
        self.head = Linear(4, 3)

    def forward(self, x: Array) -> Array:
        return self.head(self.layers[0](x))

    def backward(self, dy: Array) -> Array:
        return self.layers[0].backward(self.head.backward(dy))


X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
DY = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)


def make() -> Two:
    model = Two()
    rng = np.random.default_rng(2)
    for parameter in model.parameters():
        parameter.data[...] = rng.normal(size=parameter.shape)
    return model


def make_optimizer(kind: type, model: Module) -> Any:
    return kind(model.parameters(), lr=0.05) if kind is AdamW else kind(model.parameters(), lr=0.05, momentum=0.9)


def step(model: Two, optimizer: Any) -> None:
    optimizer.zero_grad()
    model(X)
    model.backward(DY)
    optimizer.step()


def weights_after(kind: type, habit: Callable[[Two, Any], Any] = lambda *_: None) -> dict[str, Array]:
    """The weights after four steps, with something done to model and optimizer after the second one."""
    model = make()
    optimizer = make_optimizer(kind, model)
    for number in range(4):
        if number == 2:
            model, optimizer = habit(model, optimizer) or (model, optimizer)
        step(model, optimizer)
    return model.state_dict()


def set_gradients_to_none(model: Two, _: Any) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def replace_data(model: Two, _: Any) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.copy()


def replace_data_in_fortran_order(model: Two, _: Any) -> None:
    for parameter in model.parameters():
        parameter.data = np.asfortranarray(parameter.data)


def lay_anew(model: Two, _: Any) -> None:
    FlatBuffer(list(model.parameters())[1:4])


HABITS = {
    "gradients set to None": set_gradients_to_none,
    "data replaced": replace_data,
    "data replaced in Fortran order": replace_data_in_fortran_order,
    "moved to the same device": lambda model, _: model.to("cpu") and None,
    "converted forth and back": lambda model, _: model.to(dtype=np.float64).to(dtype=np.float32) and None,
    "another buffer": lay_anew,
    "the model's buffer": lambda model, _: model.flat and None,
    "pickled": lambda *pair: pickle.loads(pickle.dumps(pair)),
    "deep-copied": lambda *pair: copy.deepcopy(pair),
    "state loaded": lambda model, optimizer: model.load_state_dict(model.state_dict()) and None,
    "a state loaded into a new optimizer": lambda model, optimizer: (model, renewed(model, optimizer)),
}


# Of another layout, which the vectors of a kernel divide elsewhere; or computed by the reference for one step.
OTHER_LAYOUT, ROUNDING = (lay_anew, replace_data_in_fortran_order), 1e-6


def renewed(model: Two, optimizer: Any) -> Any:
    other = make_optimizer(type(optimizer), model)
    other.load_state_dict(optimizer.state_dict())
    return other


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("habit", HABITS.values(), ids=HABITS)
def test_training_goes_on_whatever_the_user_does(kind: type, habit: Any) -> None:
    expected, found = weights_after(kind), weights_after(kind, habit)
    allowed = ROUNDING if habit in OTHER_LAYOUT else 0.0
    assert all(relative_error(found[path], expected[path]) <= allowed for path in expected)
    start = make().state_dict()
    assert all(not np.array_equal(found[path], start[path]) for path in start), "it trains at all"


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_replaced_gradient_is_used(kind: type) -> None:
    found = []
    for replace in (False, True):
        model = make()
        optimizer = make_optimizer(kind, model)
        for _ in range(3):
            optimizer.zero_grad()
            model(X)
            model.backward(DY)
            for parameter in model.parameters():
                if replace:
                    parameter.grad = 2 * parameter.grad
                else:
                    parameter.grad *= 2
            optimizer.step()
        found.append(model.flat.data.copy())
    assert np.array_equal(*found)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_frozen_parameters_and_those_without_a_gradient_stay(kind: type) -> None:
    model = make()
    optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.5)
    step(model, optimizer)
    before = model.state_dict()
    model.head.requires_grad_(False)
    step(model, optimizer)
    after = model.state_dict()
    assert all(np.array_equal(before[path], after[path]) == path.startswith("head") for path in before)
    model.head.requires_grad_(True)
    optimizer.zero_grad()
    optimizer.step()  # no gradients at all
    assert all(np.array_equal(model.state_dict()[path], after[path]) for path in after)


def test_a_frozen_parameter_does_not_count_steps() -> None:
    model = make()
    optimizer = AdamW(model.parameters())
    step(model, optimizer)
    model.head.requires_grad_(False)
    step(model, optimizer)
    state = optimizer.state_dict()["state"]
    assert [state[number]["step"] for number in range(6)] == [2, 2, 2, 2, 1, 1]
    assert optimizer.steps == 2


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_two_optimizers_over_one_model_are_one_optimizer(kind: type) -> None:
    expected, model = weights_after(kind), make()
    optimizers = [make_optimizer(kind, model.layers), make_optimizer(kind, model.head)]
    for _ in range(4):
        model.zero_grad()
        model(X)
        model.backward(DY)
        for optimizer in optimizers:
            optimizer.step()
    found = model.state_dict()
    assert all(relative_error(found[path], expected[path]) <= ROUNDING for path in expected)


def new_head(model: Two) -> None:
    model.head = Linear(4, 3)


def new_weight(model: Two) -> None:
    model.head.weight = Parameter(np.ones((3, 4), np.float32))


def new_layer(model: Two) -> None:
    model.layers[0] = FeedForward(4, 8)


@pytest.mark.parametrize(("change", "path"), [(new_head, "head"), (new_weight, "head.weight"), (new_layer, "layers.0")])
def test_what_no_optimizer_trains_is_refused_by_name(change: Any, path: str) -> None:
    model = make()
    optimizer = AdamW(model.parameters())
    change(model)
    with pytest.raises(StateError, match=rf"^AdamW\.step: {path}.* put into the model after the optimizer was made"):
        step(model, optimizer)


def test_a_new_head_that_an_optimizer_holds_or_that_is_frozen_is_no_error() -> None:
    model = make()
    optimizer = AdamW(model.parameters())
    new_head(model)
    before = model.head.weight.data.copy()
    optimizer.add_param_group({"params": model.head.parameters(), "lr": 0.1})
    step(model, optimizer)
    assert not np.array_equal(model.head.weight.data, before)
    new_head(model)
    model.head.requires_grad_(False)
    step(model, optimizer)


def test_a_reshaped_parameter_and_a_wrong_gradient_are_refused() -> None:
    model = make()
    optimizer = AdamW(model.parameters())
    model.head.weight.data = np.ones((5, 4), np.float32)
    with pytest.raises(StateError, match=r"head\.weight must keep its 12 elements, got 20"):
        optimizer.step()
    model = make()
    optimizer = AdamW(model.parameters())
    model.head.bias.grad = np.ones(1, np.float32)
    with pytest.raises(ShapeError, match=r"head\.bias\.grad: .* shape \(3,\), got \(1,\)"):
        optimizer.step()


def test_data_of_two_parameters_in_one_memory_are_refused() -> None:
    one, other = Linear(3, 3), Linear(3, 3)
    one.weight.data = other.weight.data
    with pytest.raises(StateError, match="memory of its own"):
        AdamW([one.weight, other.weight])
    one, other = Linear(3, 3), Linear(3, 3)
    optimizer = AdamW([one.weight, other.weight])
    one.weight.data = other.weight.data
    with pytest.raises(StateError, match="memory of its own"):
        optimizer.step()


def test_groups_have_options_of_their_own_and_decay_groups_are_two() -> None:
    model = make()
    groups = decay_groups(model, 0.3)
    assert [len(group["params"]) for group in groups] == [3, 3]
    optimizer = AdamW([groups[0], {**groups[1], "lr": 1.0}], lr=0.5)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.5, 0.3), (1.0, 0.0)]
    step(model, optimizer)
    assert len(optimizer._layout.ranges) == 2, "one sweep for each group"


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(
    ("params", "message"),
    [
        (lambda m: m, r"Give it model\.parameters\(\)"),
        (lambda m: m.state_dict(), "got a dict"),
        (lambda m: [], "at least one parameter"),
        (lambda m: 3, "an iterable of parameters"),
        (lambda m: [m.head.weight.data], "holds nn.Parameter, got ndarray"),
        (lambda m: [m.head.weight, m.head.weight], r"head\.weight twice"),
        (lambda m: [{"params": [m.head.weight], "learning_rate": 1.0}], "got learning_rate"),
    ],
)
def test_what_are_no_parameters_is_refused(kind: type, params: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{kind.__name__}: .*{message}"):
        kind(params(make()), lr=0.1)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_loaded(kind: type) -> None:
    model = make()
    optimizer = make_optimizer(kind, model)
    step(model, optimizer)
    state = optimizer.state_dict()
    short = copy.deepcopy(state)
    short["param_groups"][0]["params"].pop()
    reshaped = copy.deepcopy(state)
    reshaped["state"][0][kind.STATE[0]] = np.zeros(1)
    other = copy.deepcopy(state)
    other["state"][0]["more"] = other["state"][0].pop(kind.STATE[0])
    for wrong in ({}, short, reshaped, other):
        with pytest.raises(StateError, match=rf"^{kind.__name__}\.load_state_dict: .* it is not:"):
            optimizer.load_state_dict(wrong)
    now = optimizer.state_dict()["state"]
    assert all(np.array_equal(a, now[n][k]) for n, values in state["state"].items() for k, a in values.items())


def test_float16_weights_stay_finite_and_follow_float32() -> None:
    found = {}
    for dtype in (np.float32, np.float16):
        parameter = Parameter(np.linspace(-1, 1, 8, dtype=dtype))
        optimizer = AdamW([parameter], lr=0.01)
        for number in range(5):
            parameter.grad = (np.array([0, 1e-4, 1, 0, 3e-4, -1, 0, 2]) / (number + 1)).astype(dtype)
            optimizer.step()
        assert parameter.dtype == dtype
        found[dtype] = parameter.data.astype(np.float64)
    assert np.abs(found[np.float16] - found[np.float32]).max() <= 5 * 2.0**-11
