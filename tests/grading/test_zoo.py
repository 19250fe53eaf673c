"""The zoo: every mistake changes what the library computes while it is on, and nothing afterwards."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer import GPT, GPTConfig
from compyute_transformer.data.text.batches import TokenBatches
from compyute_transformer.errors import RangeError
from compyute_transformer.grading import EXERCISES, zoo
from compyute_transformer.grading.diagnose import differs
from compyute_transformer.nn import CrossEntropyLoss
from compyute_transformer.ops.activation import softmax_forward

pytestmark = pytest.mark.usefixtures("validation_only")  # a mistake may return another shape than the op's


def computed(op: str) -> list[dict[str, Any]]:
    exercise = EXERCISES[op]
    with np.errstate(all="ignore"):
        return [exercise.right(case) for case in exercise.cases(np.random.default_rng(0))]


def changed(ours: list[dict[str, Any]], right: list[dict[str, Any]]) -> set[str]:
    return {name for a, b in zip(ours, right, strict=True) for name in a if differs(a[name], b[name])}


def test_there_are_at_least_twenty_each_with_all_that_a_learner_is_told() -> None:
    assert len(zoo.MISTAKES) >= 40
    for name, made in zoo.MISTAKES.items():
        assert made.name == name
        assert made.op in EXERCISES
        assert all((made.wrong, made.term, made.hint, made.answer, made.replaces)), name
    assert len({made.term for made in zoo.MISTAKES.values()}) >= 38  # positions and overflow occur twice


@pytest.mark.parametrize("name", zoo.MISTAKES)
def test_a_mistake_changes_its_op_while_it_is_on_and_nothing_afterwards(name: str) -> None:
    op = zoo.MISTAKES[name].op
    before = computed(op)
    with zoo.mistake(name) as made:
        assert made is zoo.MISTAKES[name]
        assert changed(computed(op), before)
    assert not changed(computed(op), before)


@pytest.mark.parametrize("name", zoo.MISTAKES)
def test_no_two_mistakes_of_an_op_look_the_same(name: str) -> None:
    op = zoo.MISTAKES[name].op
    with zoo.mistake(name):
        ours = computed(op)
    for other in zoo.MISTAKES.values():
        if other.op == op and other.name != name:
            with zoo.mistake(other.name):
                assert changed(computed(op), ours), other.name


def test_a_mistake_hides_kernels_and_ends_with_the_block_even_after_an_error() -> None:
    reference = softmax_forward._trusted

    def fail() -> None:
        with zoo.mistake("softmax-wrong-axis"):
            assert softmax_forward.kernel("cpu") is None
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert softmax_forward._trusted is reference
    assert not softmax_forward._hidden


def test_mistakes_within_each_other_are_both_on() -> None:
    before = computed("attention")
    with zoo.mistake("missing-scale"), zoo.mistake("value-gradient-not-transposed"):
        assert changed(computed("attention"), before) == {"y", "dq", "dk", "dv"}
    assert not changed(computed("attention"), before)


def test_an_unknown_mistake_is_refused_with_the_names() -> None:
    with pytest.raises(RangeError, match=r"one of bias-gradient-averaged, .*got 'scale'"), zoo.mistake("scale"):
        pass


CONFIG = GPTConfig(vocab_size=11, context_length=7, embed_dim=12, num_heads=3, num_layers=2, activation="gelu")


def losses_and_gradients(implementation: Any) -> dict[str, Any]:
    model = GPT(CONFIG, seed=1).to(np.float64)
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data[...] = rng.normal(size=parameter.shape) * 0.3
    for block in model.blocks:
        block.attention.implementation = implementation
    ids, targets = rng.integers(0, 11, (2, 2, 7))
    targets[0, 2] = -100
    criterion = CrossEntropyLoss()
    loss = criterion(model(ids), targets)
    model.backward(criterion.backward())
    return {"loss": loss, **{name: parameter.grad.copy() for name, parameter in model.named_parameters()}}


FELT = [  # by a GPT in training, whatever its attention
    *("missing-scale", "scale-by-width", "mask-after-softmax", "causal-sees-next", "causal-hides-own-key"),
    *("scores-gradient-without-sum", "scores-gradient-without-scale", "value-gradient-not-transposed"),
    *("heads-without-transpose", "input-gradient-of-queries-only", "weight-gradient-without-batch-sum"),
    *("bias-gradient-averaged", "norm-eps-outside-root", "norm-unbiased-variance", "norm-gradient-without-mean"),
    *("norm-gradient-without-variance", "norm-weight-outside-means", "norm-weight-gradient-of-x", "gelu-forms-mixed"),
    *("gelu-without-density", "embedding-gradient-overwritten", "position-gradient-without-batch-sum"),
    *("loss-gradient-not-averaged", "loss-averaged-over-all-rows", "loss-gradient-of-ignored-rows"),
    *("loss-gradient-without-target", "residual-gradient-missing", "tied-gradient-counted-once"),
]


@pytest.mark.parametrize("implementation", ["parallel", "fused"])
def test_a_model_in_training_feels_the_mistakes(implementation: str) -> None:
    right = losses_and_gradients(implementation)
    for name in FELT:
        with zoo.mistake(name):
            assert changed([losses_and_gradients(implementation)], [right]), name
    assert not changed([losses_and_gradients(implementation)], [right])


def test_targets_off_by_one_are_the_tokens_themselves() -> None:
    batches = TokenBatches(np.arange(50), batch_size=2, context_length=5)
    with zoo.mistake("targets-off-by-one"):
        x, y = batches.batch(0)
        np.testing.assert_array_equal(x, y)
    x, y = batches.batch(0)
    np.testing.assert_array_equal(x + 1, y)


@pytest.mark.parametrize("op", EXERCISES)
def test_the_terms_of_an_output_add_up_to_what_the_library_computes(op: str) -> None:
    exercise = EXERCISES[op]
    for case, right in zip(exercise.cases(np.random.default_rng(0)), computed(op), strict=True):
        for output, terms in exercise.terms(case).items():
            assert not differs(sum(term.value for term in terms), right[output]), (case.name, output)
            assert len(terms) == 1 or all(differs(term.value, right[output]) for term in terms), "each has a part"
