"""The tests of mixed precision notice mistakes in the Python around the kernels: epilogues, copies, pieces, scales."""

from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from inspect import getsource
from typing import Any, NamedTuple

import numpy as np
import pytest
from gpu import test_mixed
from gpu.stand_in import cublaslt, cudnn, installed

from compyute_transformer.ops.norm import layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward
from compyute_transformer.precision import rounded_results, use_precision
from compyute_transformer.training import captured
from compyute_transformer.training.mixed import rounded_weights


class Mistake(NamedTuple):
    """topic: the file of `gpu/`. right, wrong: a piece of it before and after. test: the one that must notice it."""

    topic: str
    right: str
    wrong: str
    test: Callable[[Any], object]


def head(cupy: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        test_mixed.test_a_head_in_pieces_is_the_head_at_once(cupy, patch, 7, "float32")


def rounded_head(cupy: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        test_mixed.test_a_head_in_pieces_is_the_head_at_once(cupy, patch, 7, "bfloat16")


def frozen(cupy: Any) -> None:
    for chosen in (("up.weight", "down.weight"), ("up.weight", "down.bias")):
        feed_forward(cupy, chosen)


def norms(cupy: Any) -> None:
    """Norms whose result is rounded, beside the references in float64."""
    x, weight, bias = (test_mixed.numbers(seed, *shape) for seed, shape in enumerate([(5, 8), (8,), (8,)]))
    dy = test_mixed.numbers(3, 5, 8, dtype=test_mixed.BF16)
    for forward, backward, given in (
        (layer_norm_forward, layer_norm_backward, (x, weight, bias)),
        (rms_norm_forward, rms_norm_backward, (x, weight)),
    ):
        with rounded_results():
            y, saved = forward(*map(cupy.asarray, given))
            gradients = backward(cupy.asarray(dy), saved)
        expected, kept = forward.reference(*(array.astype(np.float64) for array in given))
        assert test_mixed.worst(y, expected) < 4e-3
        for one, other in zip(gradients, backward.reference(dy.astype(np.float64), kept), strict=True):
            assert test_mixed.worst(one, other) < 1e-5


def copies(cupy: Any) -> None:
    test_mixed.test_products_read_the_copy_within_a_block_and_round_outside(cupy)


def product(cupy: Any) -> None:
    test_mixed.test_a_product_of_bfloat16_and_its_gradients(cupy, True, np.float32)


def feed_forward(cupy: Any, frozen: tuple[str, ...] = ()) -> None:
    """Beside the products layer by layer, in float32."""
    layer = test_mixed.nn.FeedForward(8, 24).to("cuda")
    x, dy = (cupy.asarray(test_mixed.numbers(seed, 5, 8)) for seed in range(2))
    for name, parameter in layer.named_parameters():
        parameter.data = cupy.asarray(test_mixed.numbers(parameter.size, *parameter.shape))
        parameter.requires_grad = name not in frozen
    results = []
    for way in (nullcontext(), test_mixed.observe(layer, test_mixed.nn.Observer())):
        layer.zero_grad()
        with way, use_precision("float32"):
            results.append([layer(x), layer.backward(dy), *(p.grad for p in layer.parameters())])
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        assert other is None or np.abs((one - other).get()).max() < 1e-5 * np.abs(other.get()).max()


def stale(cupy: Any) -> None:
    test_mixed.test_the_copy_is_never_that_of_older_weights(cupy, test_mixed.change_in_place)


MISTAKES = [
    Mistake("_rounded", "copy[...] = weights", "copy[...] = 0", copies),
    Mistake("_rounded", "self.copy[first : first + array.size]", "self.copy[: array.size]", copies),
    Mistake("_rounded", "or not array.flags.c_contiguous", "", copies),
    Mistake("_rounded", "key = first, array.shape", "key = 0, array.shape", copies),
    Mistake("linear", "dweight = _empty((outputs, inputs), weight)", "dweight = _empty((outputs, inputs), x)", product),
    Mistake("linear", "vector=vector_of(bias, y)", "vector=bias", product),
    Mistake("feed_forward", '"gelu" if up_bias is None else "gelu_bias"', '"bias"', feed_forward),
    Mistake("feed_forward", 'dhidden, epilogue="dgelu", hidden=hidden', "dhidden", feed_forward),
    Mistake("feed_forward", "_of_parameters(dy_rows, activated,", "_of_parameters(dy_rows, hidden,", feed_forward),
    Mistake("feed_forward", "(x.shape), *dup, *ddown", "(x.shape), *ddown, *dup", feed_forward),
    Mistake("feed_forward", "multiply(activated, matrix, y", "multiply(hidden, matrix, y", feed_forward),
    Mistake("feed_forward", "vector_of(down_bias, y)", "vector_of(up_bias, y)", feed_forward),
    Mistake("feed_forward", "needs[0], needs[1] and has_bias[0]", "needs[2], needs[3] and has_bias[0]", frozen),
    Mistake("feed_forward", "dbias[...] = dy.sum(0,", "dbias[...] = dy.mean(0,", frozen),
    Mistake("norm", "statistics[0], statistics[1]", "statistics[1], statistics[0]", norms),
    Mistake("norm", "2 * C * 4 if needs_sums", "C * 4 if needs_sums", norms),
    Mistake("head", "count_scored(targets)", "count_scored(targets[:1])", head),
    Mistake("head", "nll[part] = ", "nll[: len(piece)] = ", head),
    Mistake("head", "multiply(dlogits, rows[part], dweight", "multiply(dlogits, rows[: len(piece)], dweight", head),
    Mistake("head", "ignore_index, label_smoothing, dloss", "ignore_index, 0.0, dloss", head),
    Mistake("head", "dlogits = _as(rows.dtype, piece)", "dlogits = _as(rows.dtype, piece * 2)", head),
    Mistake("head", "made[...] = array", "made[:, 1:] = array[:, 1:]", rounded_head),
    Mistake("head", "range(0, N, step)", "range(0, N - 1, step)", head),
    Mistake("head", "piece = logits[: part.stop - start]", "piece = logits[: part.stop - start - 1]", head),
    Mistake("head", "accumulate=start > 0", "accumulate=False", head),
    Mistake("head", "dbias += piece.sum(0)", "dbias[...] = piece.sum(0)", head),
    Mistake("head", "label_smoothing, dloss)\n        dlogits", "label_smoothing)\n        dlogits", head),
    Mistake("head", "flat[part], count,", "flat[part], count_scored(flat[part]),", head),
    Mistake("head", "multiply(dlogits, matrix, dx[part])", "multiply(dlogits, matrix, dx[: len(piece)])", head),
]  # fmt: skip


def is_noticed(mistake: Mistake) -> bool:
    """Whether the test fails with the mistake in place. Modules that read names of the module are imported after it."""
    with installed(cublaslt.make()[1] | cudnn.make()) as cupy, use_precision("bfloat16"):
        module = import_module(f"compyute_transformer.gpu.{mistake.topic}")
        source = getsource(module)
        if mistake.right not in source:
            raise ValueError(f"{mistake.topic}: the text has no piece {mistake.right!r}")
        exec(compile(source.replace(mistake.right, mistake.wrong), str(module.__file__), "exec"), module.__dict__)
        try:
            mistake.test(cupy)
        except Exception:
            return True
    return False


@pytest.mark.parametrize("test", [copies, product, feed_forward, frozen, norms, head, rounded_head, stale])
def test_without_a_mistake_nothing_is_noticed(test: Callable[[Any], object]) -> None:
    assert not is_noticed(Mistake("_rounded", "copy[...]", "copy[...]", test))


def test_planted_mistakes_are_noticed() -> None:
    assert [mistake for mistake in MISTAKES if not is_noticed(mistake)] == []


def test_a_copy_that_the_graph_does_not_make_anew_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    take = captured.CapturedSteps.take

    def with_an_old_copy(self: Any, *given: Any) -> Any:
        if not hasattr(self, "old"):
            self.old = rounded_weights(self.model)
            self.old.__enter__()
        return take(self, *given)

    monkeypatch.setattr(captured.CapturedSteps, "take", with_an_old_copy)
    monkeypatch.setattr(captured, "rounded_weights", lambda model: nullcontext())
    assert is_noticed(Mistake("_rounded", "copy[...]", "copy[...]", stale))
