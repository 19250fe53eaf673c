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

from compyute_transformer.precision import use_precision
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


def copies(cupy: Any) -> None:
    test_mixed.test_products_read_the_copy_within_a_block_and_round_outside(cupy)


def product(cupy: Any) -> None:
    test_mixed.test_a_product_of_bfloat16_and_its_gradients(cupy, True, np.float32)


def feed_forward(cupy: Any) -> None:
    """Beside the products layer by layer, in float32."""
    layer = test_mixed.nn.FeedForward(8, 24).to("cuda")
    x, dy = (cupy.asarray(test_mixed.numbers(seed, 5, 8)) for seed in range(2))
    for parameter in layer.parameters():
        parameter.data = cupy.asarray(test_mixed.numbers(parameter.size, *parameter.shape))
    results = []
    for way in (nullcontext(), test_mixed.observe(layer, test_mixed.nn.Observer())):
        layer.zero_grad()
        with way, use_precision("float32"):
            results.append([layer(x), layer.backward(dy), *(p.grad for p in layer.parameters())])
    for one, other in zip(*results, strict=True):
        assert np.abs((one - other).get()).max() < 1e-5 * np.abs(other.get()).max()


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


@pytest.mark.parametrize("test", [copies, product, feed_forward, head, stale])
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
