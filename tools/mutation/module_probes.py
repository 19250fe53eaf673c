"""Probes of modules, of models and of AdamW: run twice, backward twice, and once more in `eval()`.

Every example of `verify/records/` is one too, and every configuration of `models/registry.py`, so a new module or
model has a probe as soon as it has a check.
"""

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_args

import numpy as np

from compyute_transformer.generation.cache import KeyValueCache
from compyute_transformer.models.gpt import GPT, GPTConfig
from compyute_transformer.models.language import LanguageModel
from compyute_transformer.models.registry import MODELS, ModelRecord
from compyute_transformer.models.transformer import Transformer
from compyute_transformer.nn import (
    Dropout,
    Embedding,
    FeedForward,
    LayerNorm,
    LearnedPosition,
    Linear,
    Module,
    MultiHeadAttention,
    Parameter,
    PreNormBlock,
    SinusoidalPosition,
    share_generator,
)
from compyute_transformer.nn.attention import Implementation
from compyute_transformer.nn.feed_forward import Activation
from compyute_transformer.ops.attention import Mask
from compyute_transformer.optim.adamw import AdamWOptions, adamw_update
from compyute_transformer.random import DROPOUT, Generator
from compyute_transformer.verify.function import randomize
from compyute_transformer.verify.modules import ModuleSubject
from compyute_transformer.verify.record import ModuleCase, cast, cotangent
from compyute_transformer.verify.registry import MODULES as MODULE_CASES

from .module_properties import Grown
from .probes import Probe

__all__ = ["module_probes"]

Rng = np.random.Generator
C = 8


def module_probes(seed: int) -> Iterator[Probe]:
    """Probes of everything that is not an op, the same for the same seed."""
    for index, (name, build) in enumerate(MODULES.items()):
        for number in range(2):
            rng = np.random.default_rng([seed, 7, index, number])
            yield Probe(f"{name} {number}", partial(_run_module, build, int(rng.integers(1 << 30))))
    for number, example in enumerate(MODULE_CASES):  # so that no module is without a probe
        yield Probe(f"{example.name} [{example.case}]", partial(_run_example, example, 100 + number))
    for index, (record, case) in enumerate((r, case) for r in MODELS.values() for case in r.small_configs()):
        for number in range(2):
            name = f"{record.model.__name__} [{case}] {number}"
            yield Probe(name, partial(_run_model, record, case, [seed, 12, index, number]))
    for number in range(12):
        yield Probe(f"GPT {number}", partial(_run_gpt, [seed, 8, number]))
        yield Probe(f"AdamW {2 * number}", partial(_run_adamw, [seed, 11, number]))
        yield Probe(f"AdamW {2 * number + 1}", partial(_run_adamw, [seed, 9, number]))
    yield Probe("Parameter", partial(_run_parameter, [seed, 10]))


def _drops(probability: float = 0.3) -> Dropout:
    return Dropout(probability, generator=Generator(3, DROPOUT))


def _attention(implementation: Implementation, H: int, K: int, bias: bool, dropout: float) -> MultiHeadAttention:
    attention = MultiHeadAttention(
        C, H, K, bias=bias, dropout=dropout, implementation=implementation, generator=Generator(1)
    )
    return share_generator(attention, Generator(4, DROPOUT))


def _block(dropout: float) -> PreNormBlock:
    attention = _attention("parallel", 4, 2, True, dropout)
    feed_forward = FeedForward(C, 5, activation="gelu", generator=Generator(2))
    return PreNormBlock(LayerNorm(C), attention, _drops(dropout), LayerNorm(C, eps=0.1), feed_forward, _drops(dropout))


MODULES: dict[str, Callable[[], Module]] = {
    "Embedding": lambda: Embedding(9, C, generator=Generator(1)),
    "LearnedPosition": lambda: LearnedPosition(17, C, generator=Generator(1)),
    "SinusoidalPosition": SinusoidalPosition,
    "Linear": lambda: Linear(C, 3, generator=Generator(1)),
    "Linear without bias": lambda: Linear(C, 3, bias=False, generator=Generator(1)),
    "LayerNorm": lambda: LayerNorm(C, eps=0.01),
    "LayerNorm without bias": lambda: LayerNorm(C, bias=False),
    "Dropout": _drops,
    "Dropout of nothing": lambda: _drops(0.0),
    **{
        f"FeedForward {name}": partial(FeedForward, C, 11, bias=name != "relu", activation=name, generator=Generator(1))
        for name in get_args(Activation)
    },
    **{
        f"MultiHeadAttention {name} {H} {K} {bias} {dropout}": partial(_attention, name, H, K, bias, dropout)
        for name in get_args(Implementation)
        for H, K, bias, dropout in ((4, 4, True, 0.4), (8, 2, False, 0.0))
    },
    "PreNormBlock": lambda: _block(0.2),
    "PreNormBlock without dropout": lambda: _block(0.0),
}


def _run_module(build: Callable[[], Module], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    module = build().to(dtype=np.float64)
    randomize(module, seed % 1000)
    results: list[Any] = []
    calls = []
    for T in (5, 3):
        x = rng.integers(0, 9, (2, T)) if isinstance(module, Embedding) else rng.normal(size=(2, T, C))
        calls.append((x, _options(module, rng, T)))
    outputs = [module(x, **options) for x, options in calls]
    kinds = [zlib.crc32(repr([type(saved), *map(type, _tuple(saved))]).encode()) for saved in module._saved]
    for y in reversed(outputs):
        results.append(_tuple(module.backward(cotangent(y, 5))))
        results.append({name: p.grad.copy() for name, p in module.named_parameters() if p.grad is not None})
    module.eval()
    results += [outputs, [module(x, **options) for x, options in calls]]
    if isinstance(module, MultiHeadAttention):
        results += [module.forward_with_weights(x, **options) for x, options in calls]
        cache, x, H = Grown(), calls[0][0], module.num_heads
        for end in (2, 5):
            mask = Mask(window=3, array=rng.random((2, H, len(x[0, end - 2 : end]), 5)) < 0.7)
            results.append(module(x[:, end - 2 : end], mask=mask, cache=cache))
    kept = sum(len(inner._saved) for inner in module.modules())
    drawn = [inner.generator.offset for inner in module.modules() if hasattr(inner, "generator")]
    return tuple(map(_tuple, results)), np.array([kept, *drawn, *kinds])


def _run_example(example: ModuleCase, seed: int) -> Any:
    """The example of the checks with other weights, inputs and draws."""
    module, function = ModuleSubject(example, seed).build(np.float64)
    inputs = [function.inputs[name] for name in example.inputs]
    calls = [inputs, [x[:, ::-1] for x in inputs]]
    outputs = [example.call(module, *given) for given in calls]
    gradients = [_tuple(module.backward(cotangent(y, 5))) for y in reversed(outputs)]
    parameters = {name: p.grad.copy() for name, p in module.named_parameters() if p.grad is not None}
    alone = [example.call(module.eval(), *given) for given in calls]
    kept = sum(len(inner._saved) for inner in module.modules())
    return tuple(outputs), tuple(gradients), parameters, tuple(alone), np.array(kept)


def _options(module: Module, rng: Rng, T: int) -> dict[str, Any]:
    if isinstance(module, LearnedPosition | SinusoidalPosition):
        return {} if T == 5 else {"start": int(rng.integers(1, 12))}
    if isinstance(module, MultiHeadAttention) and T == 3:
        return {"memory": rng.normal(size=(2, 7, C)), "mask": Mask(causal=True, window=6)}
    return {"mask": Mask(causal=True)} if isinstance(module, PreNormBlock | MultiHeadAttention) else {}


def _run_model(record: ModelRecord, case: str, seed: list[int]) -> Any:
    """A configuration of the checks with other weights and other inputs, of another number of rows."""
    config, rng = record.small_configs()[case], np.random.default_rng(seed)
    model = record.model(config, 1).to(dtype=np.float64)
    randomize(model, seed[-1] + 2)
    calls = [cast(record.batch(config, rng, rows)[0], np.float64) for rows in (4, 1)]
    outputs = [model(*inputs) for inputs in calls]
    for y in reversed(outputs):
        model.backward(cotangent(y, 5))
    kept = sum(len(inner._saved) for inner in model.modules())
    alone = [model.eval()(*inputs) for inputs in calls]
    results = [*outputs, model.flat.grad, *alone, np.array([kept, model.generator.offset])]
    if isinstance(model, Transformer):
        source, target, lengths, _ = calls[0]
        cache, memory = KeyValueCache(model, batch_size=len(target)), model.encode(source, lengths)
        results += [model(source, target), model.decode(target, memory, lengths)]
        results += [model.decode(target[:, :2], memory, lengths, cache=cache, logits_to_keep=1)]
        results += [model.decode(target[:, 2:], 0 * memory, lengths, cache=cache)]
    elif isinstance(model, LanguageModel):
        (ids,), padding = calls[0], np.array([0, 1, 2, 0])
        for padded in (None, padding):
            cache = KeyValueCache(model, batch_size=4)
            cache.clear(padded)
            results += [model(ids, padding=padded, logits_to_keep=1)]
            results += [model(ids[:, :4], cache, logits_to_keep=1), model(ids[:, 4:], cache)]
    return tuple(results)


def _run_gpt(seed: list[int]) -> Any:
    rng = np.random.default_rng(seed)
    H, K = ((1, 1), (2, 2), (4, 2))[int(rng.integers(3))]
    config = GPTConfig(
        vocab_size=13,
        context_length=int(rng.integers(4, 12)),
        embed_dim=H * int(rng.integers(1, 5)),
        num_heads=H,
        num_kv_heads=K,
        num_layers=int(rng.integers(1, 4)),
        dropout=float(rng.choice([0.0, 0.3])),
        bias=bool(rng.random() < 0.5),
        tie_word_embeddings=bool(rng.random() < 0.5),
        window=int(rng.integers(1, 6)) if rng.random() < 0.5 else None,
        activation=rng.choice(get_args(Activation)),
        attn_implementation=rng.choice(get_args(Implementation)),
    )
    model = GPT(config, seed=1).to(dtype=np.float64 if rng.random() < 0.8 else np.float32)
    randomize(model, 1)
    ids = rng.integers(0, 13, (2, config.context_length))
    first, second = model(ids), model(ids[:, :3])
    model.backward(cotangent(second, 5))
    model.backward(cotangent(first, 5))
    results = [first, second, model.flat.grad, model.eval()(ids)]
    read = int(rng.integers(1, config.context_length))
    results += [model(ids, logits_to_keep=1), model(ids, padding=rng.integers(0, 3, 2), logits_to_keep=2)]
    for padding in (None, rng.integers(0, read, 2)):
        cache = KeyValueCache(model, batch_size=2)
        cache.clear(padding)
        results += [model(ids[:, :read], cache, logits_to_keep=1), model(ids[:, read:], cache)]
    return tuple(results)


def _run_adamw(seed: list[int]) -> Any:
    rng = np.random.default_rng(seed)
    dtype = np.float64 if seed[-1] % 3 else np.float32
    weight, first = (rng.normal(size=11).astype(dtype) for _ in range(2))
    second = rng.random(11).astype(dtype)
    decay = float(rng.choice([0.0, 0.3]))
    betas = float(rng.choice([0.0, 0.3, 0.9])), float(rng.choice([0.0, 0.5, 0.99]))
    for step in (1, 2, 9):
        gradient = (rng.normal(size=11) * 10.0 ** rng.integers(-4, 3)).astype(dtype)
        adamw_update(weight, gradient, first, second, step, AdamWOptions(0.1, betas, 1e-3, decay))
    return weight, first, second


def _run_parameter(seed: list[int]) -> Any:
    rng = np.random.default_rng(seed)
    once, again = rng.normal(size=(2, 3, 4))
    parameter = Parameter(np.zeros((3, 4)))
    parameter.accumulate(once)
    parameter.accumulate(again)
    return parameter.grad, once, again


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(map(_nested, value)) if isinstance(value, tuple | list) else (_nested(value),)


def _nested(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
