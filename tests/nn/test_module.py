"""Module: registration, the tree, state, the stack of what was saved, gradients that add up, observers, flat buffer."""

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from module_checks import block

from compyute_transformer.arrays import Array, gpu_fault
from compyute_transformer.errors import BackendError, BackwardError, DtypeError, ShapeError, StateError
from compyute_transformer.nn import FeedForward, LayerNorm, Linear, Module, ModuleList, Observer, Parameter, observe
from compyute_transformer.nn.module import MAX_FORWARDS, Phase, evaluating
from compyute_transformer.random import Generator
from compyute_transformer.verify import relative_error


class Tower(Module):
    """Two blocks and a head."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.blocks = ModuleList([block(dropout=dropout, seed=seed) for seed in range(2)])
        self.head = Linear(6, 4, generator=Generator(2))

    def forward(self, x: Array) -> Array:
        for inner in self.blocks:
            x = inner(x)
        y: Array = self.head(x)
        return y

    def backward(self, dy: Array) -> Array:
        dx: Array = self.head.backward(dy)
        for inner in reversed(self.blocks):
            dx = inner.backward(dx)
        return dx


class Tied(Module):
    """One matrix under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.up = Linear(3, 3, bias=False)
        self.down = Linear(3, 3, bias=False)
        self.down.weight = self.up.weight


@pytest.fixture
def tower() -> Tower:
    return Tower()


@pytest.fixture
def x(rng: np.random.Generator) -> Array:
    return np.asarray(rng.normal(size=(2, 5, 6)).astype(np.float32))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def saved_count(module: Module) -> int:
    return sum(len(inner._saved) for _, inner in module.named_modules())


# --- registration and the tree ---------------------------------------------------------------------------------------


def test_parameters_and_modules_are_registered_by_assignment(tower: Tower) -> None:
    names = [name for name, _ in tower.named_parameters()]
    assert names[:3] == [
        "blocks.0.attention_norm.weight",
        "blocks.0.attention_norm.bias",
        "blocks.0.attention.in_weight",
    ]
    assert names[-2:] == ["head.weight", "head.bias"]
    assert len(names) == 2 * 12 + 2
    assert [parameter.shape for parameter in tower.parameters()][-2:] == [(4, 6), (4,)]
    assert tower.num_parameters == sum(parameter.size for parameter in tower.parameters())


def test_a_parameter_that_is_replaced_is_replaced_everywhere() -> None:
    module = Linear(3, 2)
    module.weight = replacement = Parameter(np.ones((2, 3), dtype=np.float32))
    assert dict(module.named_parameters())["weight"] is replacement
    assert [name for name, _ in module.named_parameters()] == ["weight", "bias"]


def test_a_parameter_or_module_that_is_taken_away_leaves_the_state_too() -> None:
    module = Linear(3, 2)
    module.bias = None
    assert list(module.state_dict()) == ["weight"]
    assert module(np.ones((1, 3), dtype=np.float32)).shape == (1, 2)
    tower = Tower()
    tower.head = None
    assert all(not path.startswith("head") for path in tower.state_dict())


def test_tied_weights_are_named_once_by_the_first_of_their_names() -> None:
    module = Tied()
    assert [name for name, _ in module.named_parameters()] == ["up.weight"]
    assert module.num_parameters == 9


def test_a_shared_module_is_walked_once() -> None:
    module = Tower()
    module.again = module.head
    assert [path for path, inner in module.named_modules() if inner is module.head] == ["head"]
    assert list(module.modules()) == [inner for _, inner in module.named_modules()]


def test_paths_name_the_place_in_the_tree(tower: Tower) -> None:
    assert tower.path == ""
    assert tower.blocks[1].attention.path == "blocks.1.attention"
    assert "blocks.1.feed_forward.up" in [path for path, _ in tower.named_modules()]


def test_a_module_list_has_a_length_an_order_and_places() -> None:
    first, second = Linear(1, 1), Linear(1, 1)
    row = ModuleList([first, second])
    assert len(row) == 2
    assert list(row) == [first, second]
    assert list(reversed(row)) == [second, first]
    assert row[1] is second


def test_a_module_without_passes_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Tied has no forward"):
        Tied()(np.ones(3))
    with pytest.raises(NotImplementedError, match="Tied has no backward"):
        Tied().backward(np.ones(3))


def test_repr_tells_size(tower: Tower) -> None:
    assert repr(tower) == f"Tower(num_parameters={tower.num_parameters})"
    assert repr(tower.head.weight) == "Parameter(shape=(4, 6), dtype=float32)"


# --- state -----------------------------------------------------------------------------------------------------------


def test_a_state_dict_is_a_snapshot_that_training_does_not_change(tower: Tower) -> None:
    for _ in ("before the flat buffer is laid", "after"):
        state = tower.state_dict()
        before = {path: array.copy() for path, array in state.items()}
        for parameter in tower.parameters():
            parameter.data += 1.0
        assert all(np.array_equal(state[path], before[path]) for path in before)
        assert not any(np.shares_memory(state[path], p.data) for path, p in tower.named_parameters())
        _ = tower.flat


def test_a_state_goes_round(tower: Tower) -> None:
    other = Tower()
    for parameter in tower.parameters():
        parameter.data += 0.5
    flat = other.flat
    other.load_state_dict(tower.state_dict())
    assert all(np.array_equal(array, tower.state_dict()[path]) for path, array in other.state_dict().items())
    assert np.array_equal(flat.data, tower.flat.data), "values are copied into the flat buffer, not put in its place"


def test_loading_converts_to_the_dtype_of_the_parameter() -> None:
    module = Linear(3, 2)
    module.load_state_dict({name: array.astype(np.float64) for name, array in module.state_dict().items()})
    assert {parameter.data.dtype for parameter in module.parameters()} == {np.dtype(np.float32)}


def test_a_state_that_does_not_fit_is_refused_with_a_full_report_and_nothing_is_loaded(tower: Tower) -> None:
    before = tower.state_dict()
    state = {path: array + 1.0 for path, array in before.items()}
    del state["blocks.0.attention.in_weight"], state["blocks.1.attention_norm.bias"]
    state["head.weight"] = np.zeros((5, 6), dtype=np.float32)
    state["head.bias"] = np.zeros((1,), dtype=np.float32)  # would broadcast
    state["blocks.0.feed_forward.up.weight"] = np.zeros((6, 12), dtype=np.float32)  # turned, of the same size
    state["tail.weight"] = np.zeros(7, dtype=np.float32)
    with pytest.raises(StateError) as caught:
        tower.load_state_dict(state)
    report = str(caught.value)
    for fault in (
        "missing: blocks.0.attention.in_weight (18, 6)",
        "missing: blocks.1.attention_norm.bias (6,)",
        "unexpected: tail.weight (7,)",
        "other shape: head.weight is (4, 6), got (5, 6)",
        "other shape: head.bias is (4,), got (1,)",
        "other shape: blocks.0.feed_forward.up.weight is (12, 6), got (6, 12)",
    ):
        assert fault in report
    assert all(np.array_equal(array, before[path]) for path, array in tower.state_dict().items())


def test_a_state_that_holds_no_numbers_is_refused_and_nothing_is_loaded() -> None:
    module = Linear(1, 2)
    before = module.state_dict()
    with pytest.raises(StateError, match=r"not real numbers: bias is float32, got <U1"):
        module.load_state_dict({"weight": np.ones((2, 1)), "bias": np.array(["a", "b"])})
    assert np.array_equal(module.weight.data, before["weight"])


# --- the two passes --------------------------------------------------------------------------------------------------


def test_a_module_that_runs_twice_before_its_backwards_gives_the_right_gradients(rng: np.random.Generator) -> None:
    ours = FeedForward(3, 5, generator=Generator(1)).to(dtype=np.float64)
    theirs = {path: torch.from_numpy(array).requires_grad_() for path, array in ours.state_dict().items()}
    x = torch.from_numpy(rng.normal(size=(4, 3))).requires_grad_()

    def their(x: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.linear(x, theirs["up.weight"], theirs["up.bias"])
        hidden = torch.nn.functional.gelu(hidden, approximate="tanh")
        return torch.nn.functional.linear(hidden, theirs["down.weight"], theirs["down.bias"])

    y = ours(ours(x.detach().numpy()))
    dy = rng.normal(size=y.shape)
    dx = ours.backward(ours.backward(dy))
    their(their(x)).backward(torch.from_numpy(dy))
    assert relative_error(dx, x.grad.numpy()) <= 1e-12
    for path, parameter in ours.named_parameters():
        assert relative_error(parameter.grad, theirs[path].grad.numpy()) <= 1e-12


def test_a_backward_before_any_forward_names_the_module(tower: Tower) -> None:
    with pytest.raises(BackwardError, match=r"^blocks\.1\.attention: a backward needs the forward it belongs to"):
        tower.blocks[1].attention.backward(np.ones((2, 5, 6), dtype=np.float32))
    with pytest.raises(BackwardError, match=r"^Linear: "):
        Linear(3, 2).backward(np.ones((1, 2), dtype=np.float32))


def test_a_second_backward_is_refused(tower: Tower, x: Array) -> None:
    dy = np.ones_like(tower(x))
    tower.backward(dy)
    with pytest.raises(BackwardError, match=r"^head: .*once for each backward"):
        tower.backward(dy)
    with pytest.raises(BackwardError, match=r"^blocks\.1\.attention: "):
        tower.blocks[1].attention.backward(x)


def test_a_backward_after_a_forward_in_eval_is_refused(tower: Tower, x: Array) -> None:
    dy = np.ones_like(tower.eval()(x))
    with pytest.raises(BackwardError, match=r"^head: .*module\.train\(\)"):
        tower.backward(dy)


def test_nothing_grows_in_eval(tower: Tower, x: Array) -> None:
    tower.eval()
    for _ in range(5):
        tower(x)
        tower.blocks[0].attention.forward_with_weights(x)
    assert saved_count(tower) == 0


def test_what_training_saves_its_backward_takes(tower: Tower, x: Array) -> None:
    for _ in range(3):
        y = tower(x)
        assert saved_count(tower) > 0
        tower.backward(np.ones_like(y))
        assert saved_count(tower) == 0


def test_what_is_saved_to_a_file_is_loaded(tower: Tower, x: Array, tmp_path: Path) -> None:
    file, before = tmp_path / "tower.safetensors", tower.eval()(x)
    tower.save(file)
    for parameter in tower.parameters():
        parameter.data += 1
    assert not np.array_equal(tower(x), before)
    tower.load(file)
    assert np.array_equal(tower(x), before)
    with pytest.raises(StateError, match="must hold exactly this module's parameters"):
        tower.head.load(file)
    file.write_bytes(b"no tensors")
    with pytest.raises(StateError, match=r"Tower.load: .*tower.safetensors must be a safetensors file"):
        tower.load(file)
    with pytest.raises(StateError, match="cannot be read"):
        tower.load(tmp_path / "none")
    with pytest.raises(StateError, match=r"Tower.save: .*none/tower.safetensors must be a file that can be written"):
        tower.save(tmp_path / "none" / "tower.safetensors")


def test_str_is_the_tree(tower: Tower) -> None:
    lines = str(tower).splitlines()
    assert lines[0].startswith("Tower")
    assert any(line.startswith("  head: Linear(weight (4, 6)") for line in lines)
    assert lines[-1] == f"{tower.num_parameters:,} parameters"


def test_forget_drops_what_was_saved(tower: Tower, x: Array) -> None:
    tower(x)
    tower.clear_saved()
    assert saved_count(tower) == 0


def test_train_and_eval_reach_every_module(tower: Tower) -> None:
    assert tower.eval() is tower
    assert not any(module.training for _, module in tower.named_modules())
    assert tower.train() is tower
    assert all(module.training for _, module in tower.named_modules())


# --- gradients add up ------------------------------------------------------------------------------------------------


def gradients(module: Module, x: Array, dy: Array) -> dict[str, Array]:
    module.forward(x)
    module.backward(dy)
    return {path: np.array(parameter.grad) for path, parameter in module.named_parameters()}


def test_two_half_batches_are_one_batch(tower: Tower, rng: np.random.Generator) -> None:
    tower.to(dtype=np.float64)
    x, dy = rng.normal(size=(4, 5, 6)), rng.normal(size=(4, 5, 4))
    whole = gradients(tower, x, dy)
    tower.zero_grad()
    gradients(tower, x[:2], dy[:2])
    halves = gradients(tower, x[2:], dy[2:])
    assert all(relative_error(halves[path], whole[path]) <= 1e-12 for path in whole)


@pytest.mark.parametrize("flat", [False, True])
def test_a_second_backward_without_zero_grad_doubles_every_gradient(tower: Tower, x: Array, flat: bool) -> None:
    if flat:
        _ = tower.flat
    dy = np.ones((2, 5, 4), dtype=np.float32)
    once = gradients(tower, x, dy)
    twice = gradients(tower, x, dy)
    assert all(np.array_equal(twice[path], 2.0 * once[path]) for path in once)
    tower.zero_grad()
    assert all(np.array_equal(again, once[path]) for path, again in gradients(tower, x, dy).items())


def test_a_gradient_is_copied_when_it_arrives() -> None:
    parameter, gradient = Parameter(np.zeros(3)), np.ones(3)
    parameter.accumulate(gradient)
    gradient += 5.0
    parameter.accumulate(gradient)
    assert np.array_equal(parameter.grad, [7.0, 7.0, 7.0])
    assert np.array_equal(gradient, [6.0, 6.0, 6.0])


@pytest.mark.parametrize("gradient", [None, np.ones(1), np.ones((1, 3))])
def test_a_gradient_of_another_shape_is_refused(gradient: Array | None) -> None:
    with pytest.raises(ShapeError, match=r"the parameter's shape \(3,\)"):
        Parameter(np.zeros(3)).accumulate(gradient)


# --- observers -------------------------------------------------------------------------------------------------------


class Log(Observer):
    def __init__(self) -> None:
        self.events: list[tuple[str, Phase, str, tuple[Any, ...], Any]] = []

    def before(self, path: str, module: Module, phase: Phase, inputs: tuple[Any, ...], *_: Any) -> None:
        self.events.append(("before", phase, path, inputs, None))

    def after(self, path: str, module: Module, phase: Phase, inputs: tuple[Any, ...], output: Any, *_: Any) -> None:
        self.events.append(("after", phase, path, inputs, output))

    def seen(self, when: str, phase: Phase) -> list[str]:
        return [path for w, p, path, _, _ in self.events if (w, p) == (when, phase)]


RUN = [f"blocks.{i}.{part}" for i in range(2) for part in ("attention_norm", "attention", "attention_dropout")]
RUN += [f"blocks.{i}.feed_forward{part}" for i in range(2) for part in ("_norm", "", ".up", ".down", "_dropout")]
RUN += ["", "blocks.0", "blocks.1", "head"]


def test_an_observer_sees_every_module_forward_and_backward(tower: Tower, x: Array) -> None:
    log = Log()
    with observe(tower, log):
        y = tower(x)
        dx = tower.backward(np.ones_like(y))
    for phase in ("forward", "backward"):
        assert sorted(log.seen("before", phase)) == sorted(log.seen("after", phase)) == sorted(RUN)
    assert log.seen("before", "forward")[:3] == ["", "blocks.0", "blocks.0.attention_norm"]
    assert log.seen("before", "backward")[:3] == ["", "head", "blocks.1"]
    ends = {(phase, path): (inputs, output) for when, phase, path, inputs, output in log.events if when == "after"}
    assert ends["forward", ""][0][0] is x
    assert ends["forward", ""][1] is y
    assert ends["backward", ""][1] is dx
    assert ends["forward", "head"][1] is y


def test_paths_start_at_the_observed_module(tower: Tower, x: Array) -> None:
    log = Log()
    with observe(tower.blocks[1], log):
        tower(x)
    assert log.seen("before", "forward")[:2] == ["", "attention_norm"]
    assert len(log.seen("before", "forward")) == 9


def test_observers_change_nothing_and_are_gone_afterwards(tower: Tower, x: Array) -> None:
    plain = tower(x)
    log = Log()
    with observe(tower, log), observe(tower, Log()):
        watched = tower(x)
    seen = len(log.events)
    tower(x)
    assert np.array_equal(plain, watched)
    assert len(log.events) == seen
    assert not any(module._observers for _, module in tower.named_modules())


def test_a_module_that_was_never_observed_carries_nothing_for_it(tower: Tower, x: Array) -> None:
    tower(x)
    assert not any("_observers" in vars(module) for _, module in tower.named_modules())


@pytest.mark.parametrize("when", ["inside the block", "inside the observer"])
def test_observers_are_gone_after_an_exception(tower: Tower, x: Array, when: str) -> None:
    class Stop(Observer):
        def after(self, path: str, module: Module, phase: Phase, inputs: tuple[Any, ...], output: Any, *_: Any) -> None:
            if when == "inside the observer" and path == "blocks.0.attention":
                raise ArithmeticError(path)

    def run() -> None:
        with observe(tower, Stop()):
            tower(x)
            raise ArithmeticError("blocks.0.attention")

    with pytest.raises(ArithmeticError, match=r"blocks\.0\.attention"):
        run()
    assert not any(module._observers for _, module in tower.named_modules())


# --- the flat buffer -------------------------------------------------------------------------------------------------


def test_the_flat_buffer_is_the_parameters_themselves_matrices_first(tower: Tower, x: Array) -> None:
    before = tower.state_dict()
    flat = tower.flat
    assert tower.flat is flat
    assert flat.data.shape == flat.grad.shape == (tower.num_parameters,)
    matrices = sum(p.size for p in tower.parameters() if p.data.ndim == 2)
    start = 0
    for parameter in flat.parameters:
        assert (start < matrices) == (parameter.data.ndim == 2)
        part = slice(start, start + parameter.size)
        assert np.shares_memory(parameter.data, flat.data[part])
        assert np.shares_memory(parameter.grad, flat.grad[part])
        assert np.array_equal(parameter.data.reshape(-1), flat.data[part])
        start = part.stop
    assert start == flat.data.size
    assert all(np.array_equal(array, before[path]) for path, array in tower.state_dict().items())
    tower.backward(np.ones_like(tower(x)))
    in_weight = tower.blocks[0].attention.in_weight
    assert np.array_equal(flat.grad[: in_weight.size].reshape(18, 6), in_weight.grad)
    assert flat.grad.any()
    tower.zero_grad()
    assert tower.head.weight.grad is None
    assert not flat.grad.any()


def test_gradients_gathered_before_the_flat_buffer_stay(tower: Tower, x: Array) -> None:
    tower.backward(np.ones_like(tower(x)))
    before = {path: parameter.grad.copy() for path, parameter in tower.named_parameters()}
    _ = tower.flat
    assert all(np.array_equal(parameter.grad, before[path]) for path, parameter in tower.named_parameters())


def test_tied_weights_lie_in_the_flat_buffer_once() -> None:
    assert Tied().flat.data.size == 9


def test_the_gradients_of_an_inner_module_are_zeroed_in_the_outer_buffer(tower: Tower, x: Array) -> None:
    flat = tower.flat
    tower.backward(np.ones_like(tower(x)))
    tower.head.zero_grad()
    assert tower.head.weight.grad is None
    assert flat.grad.any()
    assert not tower.head.weight.grad.any(), "asking for all gradients in one array fills in zeros"
    tower.blocks.zero_grad(set_to_none=False)
    assert not flat.grad.any()


def test_a_second_flat_buffer_of_an_inner_module_is_refused(tower: Tower) -> None:
    _ = tower.flat
    with pytest.raises(StateError, match=r"^blocks\.0\.flat: .*outermost"):
        _ = tower.blocks[0].flat


def test_the_flat_buffer_follows_a_parameter_that_is_replaced(tower: Tower, x: Array) -> None:
    old = tower.flat
    tower.head = Linear(6, 9)
    tower.backward(np.ones_like(tower(x)))
    tower.zero_grad()
    assert not any(parameter.grad.any() for parameter in tower.parameters() if parameter.grad is not None)
    flat = tower.flat
    assert flat is not old
    assert flat.data.size == tower.num_parameters
    assert np.shares_memory(flat.data, tower.head.weight.data)


def test_a_copied_module_gets_a_flat_buffer_of_its_own(tower: Tower) -> None:
    flat = tower.flat
    kernel = copy.deepcopy(tower)
    kernel.flat.data += 1.0
    assert np.array_equal(kernel.head.weight.data, tower.head.weight.data + np.float32(1.0))
    assert tower.flat is flat


def test_parameters_of_two_dtypes_have_no_flat_buffer() -> None:
    module = Tower()
    module.head.to(dtype=np.float64)
    with pytest.raises(StateError, match=r"one dtype, got float32, float64"):
        _ = module.flat


# --- moving ----------------------------------------------------------------------------------------------------------


def test_to_a_dtype_lays_the_flat_buffer_anew(tower: Tower, rng: np.random.Generator) -> None:
    old = tower.flat
    assert tower.to(dtype=np.float64) is tower
    flat = tower.flat
    assert flat is not old
    assert flat.data.dtype == flat.grad.dtype == np.float64
    assert np.array_equal(flat.data, old.data)
    assert all(np.shares_memory(parameter.data, flat.data) for parameter in tower.parameters())
    y = tower(rng.normal(size=(2, 5, 6)))
    assert y.dtype == np.float64
    assert tower.backward(y).dtype == np.float64
    assert {parameter.grad.dtype for parameter in tower.parameters()} == {np.dtype(np.float64)}


def test_to_where_it_is_copies_nothing(tower: Tower) -> None:
    flat, before = tower.flat, [parameter.data for parameter in tower.parameters()]
    for arguments in (("cpu",), (np.float32,), ("cpu", np.float32), ()):
        assert tower.to(*arguments) is tower
    assert tower.flat is flat
    assert Tower().to(dtype=np.dtype(np.float64)).dtype == np.float64  # which equals None to NumPy
    assert all(np.shares_memory(p.data, data) for p, data in zip(tower.parameters(), before, strict=True))


def test_an_inner_module_may_be_moved(tower: Tower) -> None:
    _ = tower.flat
    tower.blocks[1].to(dtype=np.float64)
    assert tower.blocks[1].attention.in_weight.dtype == np.float64
    assert tower.head.weight.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.int64, bool, np.complex128])
def test_parameters_hold_floats(tower: Tower, dtype: type) -> None:
    with pytest.raises(DtypeError, match=r"Tower\.to: parameters hold floats, got dtype"):
        tower.to(dtype=dtype)


def test_a_device_that_does_not_exist_is_refused(tower: Tower) -> None:
    with pytest.raises(BackendError, match="'cpu' or 'cuda', got 'tpu'"):
        tower.to("tpu")


def test_without_a_gpu_moving_there_says_why_and_moves_nothing(tower: Tower, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = gpu_fault() or "CuPy is installed but the machine has no NVIDIA GPU"
    monkeypatch.setattr("compyute_transformer.arrays.gpu_fault", lambda: fault)
    flat = tower.flat
    with pytest.raises(BackendError) as caught:
        tower.to("cuda")
    assert fault in str(caught.value)
    assert tower.device == "cpu"
    assert tower.flat is flat


def test_a_module_without_parameters_lives_on_the_cpu() -> None:
    assert ModuleList([]).device == "cpu"
    assert Tower().device == "cpu"
    assert LayerNorm(3).to("cpu").device == "cpu"


# --- habits of PyTorch's users ---------------------------------------------------------------------------------------


def test_train_takes_a_mode(tower: Tower) -> None:
    assert not tower.train(False).training
    assert tower.train(True).training


def test_evaluating_holds_for_the_calling_thread_and_leaves_the_mode_alone(tower: Tower, x: Array) -> None:
    seen = []
    with evaluating():
        thread = threading.Thread(target=lambda: seen.append(tower.training))
        thread.start()
        thread.join()
        assert not tower.training
        tower(x)
        assert saved_count(tower) == 0
    assert seen == [True]
    assert tower.training


def test_a_state_that_is_not_strict_says_what_is_missing_and_unexpected(tower: Tower) -> None:
    state = tower.state_dict()
    weight = state.pop("head.weight")
    keys = tower.load_state_dict({**state, "more": weight}, strict=False)
    assert keys.missing_keys == ["head.weight"]
    assert keys.unexpected_keys == ["more"]
    assert tower.load_state_dict(tower.state_dict()) == ([], [])


@pytest.mark.parametrize("hide", [lambda m: [m], lambda m: (m,), lambda m: {"a": m}], ids=["list", "tuple", "dict"])
def test_modules_hidden_in_a_container_are_refused(tower: Tower, hide: Any) -> None:
    for hidden in (Linear(2, 2), Parameter(np.zeros(2))):
        with pytest.raises(StateError, match="ModuleList"):
            tower.layers = hide(hidden)


def test_a_module_list_grows_as_a_list_does() -> None:
    one, two, three, four = (Linear(2, 2) for _ in range(4))
    modules = ModuleList().append(one)
    modules.extend([two, three])
    modules.insert(1, four)
    assert list(modules) == [one, four, two, three]
    assert [path for path, _ in modules.named_children()] == ["0", "1", "2", "3"]
    modules[-1] = one
    assert len(modules) == 4
    assert modules[3] is one
    with pytest.raises(StateError, match="every element is a Module"):
        modules.append(3)  # type: ignore[arg-type]


def test_a_pickled_part_does_not_take_the_model_along(tower: Tower, x: Array) -> None:
    block = tower.blocks[0]
    tower.eval()(x)
    size = 4 * block.num_parameters
    for twice in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert twice.path == ""
        assert twice.root is twice
    assert len(pickle.dumps(block)) < size + 8000
    again = pickle.loads(pickle.dumps(tower))
    assert again.blocks[0].path == "blocks.0"
    assert again.head.weight.path == "head.weight"
    assert np.array_equal(again(x), tower(x))


def test_forwards_without_a_backward_are_bounded_and_warn_once(tower: Tower, x: Array) -> None:
    tower(x)
    once = saved_count(tower)

    def many() -> None:
        for _ in range(MAX_FORWARDS + 4):
            tower(x)

    with pytest.warns(UserWarning, match="without a backward") as caught:
        many()
    assert len(caught) == 1
    assert saved_count(tower) <= MAX_FORWARDS * once


def test_a_second_thread_that_trains_one_model_is_refused(tower: Tower, x: Array) -> None:
    tower(x)
    errors: list[Exception] = []

    def train() -> None:
        try:
            tower(x)
        except StateError as error:
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert "one thread at a time" in str(errors[0])


def test_a_parameter_holds_floats() -> None:
    for wrong in ([1.0], np.arange(3), None):
        with pytest.raises(DtypeError, match="an array of floats"):
            Parameter(wrong)  # type: ignore[arg-type]


def test_a_function_is_decorated_with_evaluating_and_calls_itself() -> None:
    layer = Linear(2, 2)

    @evaluating()
    def modes(depth: int) -> list[bool]:
        return [layer.training, *(modes(depth - 1) if depth else []), layer.training]

    assert not any(modes(2))
    assert layer.training
