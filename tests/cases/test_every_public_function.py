"""Every public function that takes arrays, on arrays of every kind: the right value, or one sentence.

The functions are found, not listed: those of the public packages with an array among their parameters. A new one needs
a call in `CALLS`, and the first test says so.
"""

import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compyute_transformer as ct
from compyute_transformer import data, exchange, generation, nn, ops, optim, parallel, plotting, random, verify
from compyute_transformer.errors import CompyuteError
from compyute_transformer.generation import Sampling

PACKAGES = [n for n in ct.__all__ if inspect.ismodule(getattr(ct, n))] + ["parallel", "plotting", "random", "grading"]
IN_OTHER_TABLES = {
    *("generate_ids", "attention_maps", "named_attention_maps", "trace", "page", "validation_windows"),  # of ids
    *("check_module", "check_op", "directional_error", "derivative"),  # what is verified decides
    *("attention", "generate", "generate_batch", "stream", "stream_translation"),
}
WORDS = re.compile(r"Array|ndarray|jaxtyping")

RNG = np.random.default_rng(0)
V = np.array([0.5, 2.0, 1.5, -1.0], np.float32)
M = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
SEEN = Sampling(repetition_penalty=1.3)
PIXELS = np.arange(48, dtype=np.uint8).reshape(3, 4, 4, 1)
PAIRS = [data.Pair("a", "b", "f", 1), data.Pair("ab", "b", "f", 2)]
ROWS = np.cumsum(np.ones((2, 1, 3, 4), np.float32), 2)


def gpt() -> ct.GPT:
    return ct.GPT(ct.GPTConfig(5, context_length=8, embed_dim=16, num_heads=2, num_layers=1), seed=1).eval()


def linear(weight: Any = None, grad: Any = None) -> nn.Linear:
    module = nn.Linear(4, 3, bias=False, generator=random.Generator(1))
    if weight is not None:
        module.weight.data = weight
    module.weight.grad = grad
    return module


def clipped(grad: Any) -> Any:
    module = linear(grad=grad)
    norm = optim.clip_grad_norm_(module.parameters(), 0.1)
    return norm, module.weight.grad


def stepped(grad: Any) -> Any:
    module = linear(grad=grad)
    optim.SGD(module.parameters(), 0.1).step()
    return module.weight.data


def loaded(weight: Any) -> Any:
    module = linear()
    module.load_state_dict({"weight": weight})
    return module.weight.data


def saved(weight: Any) -> Any:
    linear(weight).save("linear.safetensors")
    module = linear()
    module.load("linear.safetensors")
    return module.weight.data


def written(array: Any) -> Any:
    exchange.write_tensors(Path.cwd(), {"a": array})
    return exchange.read_tensors(Path.cwd())["a"]


def reduced(array: Any) -> Any:
    parallel.all_reduce(array, parallel.Single())
    return array


def as_floats(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32)


def vit(images: Any) -> Any:
    return ct.ViT(ct.ViTConfig(4, 4, 1, 3, patch_size=2, embed_dim=12, num_layers=1), seed=1).eval()(images)


def translated(lengths: Any) -> Any:
    model = ct.Transformer(ct.TransformerConfig(7, 8, 16, 2, 1), seed=1).eval()
    return model(np.array([[1, 2, 3], [1, 2, 3]]), np.array([[1, 2], [2, 1]]), lengths, np.array([2, 1]))


# The function, or what takes arrays beside functions: how it is called with an array, and the array.
CALLS: dict[str, tuple[Callable[[Any], Any], np.ndarray]] = {
    "probabilities": (generation.probabilities, V),
    "sample": (lambda logits: generation.sample(logits, key=random.RandomKey(1, 1, 1)), V),
    "seen tokens": (lambda seen: generation.probabilities(V, SEEN, seen), np.array([0, 2])),
    "load_state_dict": (loaded, M),
    "save": (saved, M),
    "clip_grad_norm_": (clipped, M),
    "gradient": (stepped, M),
    "weight": (lambda weight: linear(weight)(np.ones((2, 4), np.float32)), M),
    "write_tensors": (written, M),
    "all_reduce": (reduced, V),
    "relative_error": (lambda ours: float(verify.relative_error(ours, M.astype(np.asarray(ours).dtype))), M),
    "plot_attention": (lambda maps: plotting.plot_attention([maps]) and 1, M.reshape(1, 1, 3, 4)),
    "plot_confusion": (lambda counts: plotting.plot_confusion(counts, "abc") and 1, np.arange(9).reshape(3, 3)),
    "ordered_batches": (lambda p: next(data.ordered_batches(p, np.arange(3), 2, as_floats)), PIXELS),
    "ImageBatches": (lambda p: data.ImageBatches(p, np.arange(3), 2, as_floats).batch(3), PIXELS),
    "labels": (lambda labels: data.ImageBatches(PIXELS, labels, 2, as_floats).batch(3), np.array([0, 1, 0])),
    "EncodedPairs": (
        lambda rows: data.EncodedPairs(PAIRS, data.CharacterTokenizer("ab"), 8, "a").batch(rows).source,
        np.array([1, 0]),
    ),
    "padding": (lambda padding: gpt()(np.array([[1, 2, 3]] * 2), padding=padding), np.array([0, 1])),
    "select": (lambda rows: generation.KeyValueCache(gpt(), 2).select(rows), np.array([1, 0])),
    "key_lengths": (lambda k: ops.attention(ROWS, ROWS, ROWS, ops.Mask(key_lengths=k)), np.array([1, 3])),
    "mask": (lambda array: ops.attention(ROWS, ROWS, ROWS, ops.Mask(array=array)), np.tri(3, 3, dtype=bool)),
    "targets": (lambda targets: nn.CrossEntropyLoss()(M, targets), np.array([1, 2, 3])),
    "lengths": (translated, np.array([3, 2])),
    "images": (vit, PIXELS[:2].astype(np.float32)),
}
KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "float16": lambda a: a.astype(np.float16),
    "float64": lambda a: a.astype(np.float64),
    "int64": lambda a: a.astype(np.int64),
    "list": lambda a: a.tolist(),
    "Fortran order": np.asfortranarray,
    "reversed twice": lambda a: a[..., ::-1].copy()[..., ::-1],
    "read-only": lambda a: np.broadcast_to(a, a.shape),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "objects": lambda a: a.astype(object),
    "strings": lambda a: a.astype(str),
    "None": lambda a: None,
    "a number": lambda a: a.dtype.type(1),
    "nothing": lambda a: a[:0],
}
OTHER_VALUES = ("int64", "strings", "None", "a number", "nothing")  # of floats, integers are other values
BARE = re.compile(r"object (is not|has no|cannot)|unsupported operand|not supported between|ufunc")


def test_every_public_function_that_takes_arrays_is_in_a_table() -> None:
    missing = []
    for package in PACKAGES:
        module = importlib.import_module(f"compyute_transformer.{package}")
        for name in module.__all__:
            function = getattr(module, name)
            if package != "ops" and inspect.isfunction(function) and name not in {*CALLS, *IN_OTHER_TABLES}:
                parameters = inspect.signature(function).parameters.values()
                if any(WORDS.search(str(parameter.annotation)) for parameter in parameters):
                    missing.append(f"{package}.{name}")
    assert not missing, f"{', '.join(missing)}: add to CALLS in this file how each is called with an array."


def plain(found: Any) -> Any:
    if found is None:
        return None
    return [plain(item) for item in found] if isinstance(found, list | tuple) else np.asarray(found, np.float64)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one is other if one is None else one.shape == other.shape and np.allclose(one, other, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_arrays_of_every_kind_are_right_or_refused(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, array = CALLS[name]
    expected = plain(call(array.copy()))
    try:
        found = plain(call(KINDS[kind](array.copy())))
    except (CompyuteError, TypeError, ValueError) as error:
        words = str(error)
    else:
        assert kind in OTHER_VALUES or same(found, expected)
        return
    assert 10 < len(words) < 700
    assert not BARE.search(words), words
