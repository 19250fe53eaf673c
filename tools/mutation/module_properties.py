"""What the modules keep beyond right gradients, as checks a mutant must survive.

twice             a module that runs twice goes back last in, first out, and its gradients add up
eval              nothing is dropped, drawn or kept
frozen            no gradient of a frozen parameter is computed
kept              a model's backward uses up all that its forward saved
recompute         blocks that run again in their backward keep nothing but their inputs, and give the same bits
dropout           with probability 0 nothing is drawn and nothing changes; a probability of 0.001 is not 0
implementation    the one that is asked for runs; "auto" is fused where it has a kernel, else parallel
weights           attention weights are PyTorch's
cache             what is read after others, alone, comes out as when all is read together
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, get_args
from unittest.mock import patch

import numpy as np

from compyute_transformer.arrays import Array
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.generation.cache import KeyValueCache
from compyute_transformer.models.gpt import GPTConfig
from compyute_transformer.models.language import LanguageModel
from compyute_transformer.models.llama import LlamaConfig
from compyute_transformer.models.registry import MODELS, ModelRecord
from compyute_transformer.models.transformer_lm import TransformerLMConfig
from compyute_transformer.nn import (
    Block,
    Dropout,
    LoRAAttention,
    Module,
    MultiHeadAttention,
    Parameter,
    recompute_blocks,
)
from compyute_transformer.nn.attention import Implementation, ProjectedMemory
from compyute_transformer.ops.attention import AttentionSaved, FusedAttentionSaved, Mask
from compyute_transformer.ops.multi_head import HeadByHeadSaved, SequentialSaved
from compyute_transformer.random import DROPOUT, Generator
from compyute_transformer.verify.function import randomize
from compyute_transformer.verify.modules import ModuleSubject
from compyute_transformer.verify.record import ModuleCase, cast, cotangent
from compyute_transformer.verify.registry import MODULES
from compyute_transformer.verify.result import Result, relative_error
from compyute_transformer.verify.tolerances import limit
from compyute_transformer.verify.torch.attention import compare_attention
from compyute_transformer.verify.torch.base import import_torch
from compyute_transformer.verify.torch.modules import torch_weights

from .properties import Property, check_that, measured

__all__ = ["Grown", "module_properties"]

SAVED: dict[str, type] = {
    "sequential": SequentialSaved,
    "semiparallel": HeadByHeadSaved,
    "parallel": AttentionSaved,
    "fused": FusedAttentionSaved,
}
SAME = 1e-12  # other products, or the same in another order
WEIGHED: tuple[dict[str, Any], ...] = (
    {"mask": Mask(causal=True)},
    {"memory_length": 7, "num_heads": 2},
    {"num_heads": 1},
    {"num_heads": 6, "num_kv_heads": 2, "dropout": 0.4},
)


def module_properties() -> Iterator[Property]:
    """Every property of the modules, with its name."""
    for example in MODULES:
        yield f"twice {example.name} [{example.case}]", partial(_twice, example)
        yield f"eval {example.name} [{example.case}]", partial(_eval, example)
        yield f"frozen {example.name} [{example.case}]", partial(_frozen, example)
    for record in MODELS.values():
        yield f"kept models.{record.model.__name__}", partial(_kept, record)
        yield f"recompute models.{record.model.__name__}", partial(_recompute, record)
    yield "dropout", _dropout
    yield "cache of LoRA", _cache_of_lora
    for name in get_args(Implementation):
        yield f"implementation {name}", partial(_implementation, name)
        yield f"weights {name}", partial(_weights, name)
        yield f"cache {name}", partial(_cache, name)
        yield f"cache of a memory {name}", partial(_cache_of_memory, name)
        yield f"cache and masks of each head {name}", partial(_cache_of_heads, name)


def _twice(example: ModuleCase) -> Iterator[Result]:
    module, function = ModuleSubject(example, 0).build(np.float64)
    first = [function.inputs[name] for name in example.inputs]
    calls = [first, [2.0 * x[:, ::-1] for x in first]]
    generators = [inner.generator for inner in module.modules() if hasattr(inner, "generator")]
    dys, alone = [], []
    for number, inputs in enumerate(calls):
        _forget_gradients(module)
        y = example.call(module, *inputs)
        dys.append(cotangent(y, number))
        alone.append((y, module.backward(dys[-1]), _gradients(module)))
    for generator in generators:
        generator.offset = 0
    _forget_gradients(module)
    outputs = [example.call(module, *inputs) for inputs in calls]
    backwards = [module.backward(dy) for dy in reversed(dys)][::-1]
    for number, (y, found, _) in enumerate(alone):
        yield measured(example.name, example.case, f"y of run {number}", relative_error(outputs[number], y), SAME)
        for ours, theirs in zip(_several(backwards[number]), _several(found), strict=True):
            error = relative_error(ours, theirs)
            yield measured(example.name, example.case, f"gradient of run {number}", error, SAME)
    for path, gradient in _gradients(module).items():
        error = relative_error(gradient, alone[0][2][path] + alone[1][2][path])
        yield measured(example.name, example.case, f"sum of d{path}", error, SAME)


def _forget_gradients(module: Module) -> None:
    for parameter in module.parameters():
        parameter.grad = None


def _gradients(module: Module) -> dict[str, Any]:
    return {path: None if p.grad is None else p.grad.copy() for path, p in module.named_parameters()}


def _several(found: Any) -> list[Array]:
    return [d for d in (found if isinstance(found, tuple) else (found,)) if d is not None]


def _eval(example: ModuleCase) -> Iterator[Result]:
    torch = import_torch()
    module, function = ModuleSubject(example, 0).build(np.float64)
    inputs = [function.inputs[name] for name in example.inputs]
    y = example.call(module.eval(), *inputs)
    theirs = example.torch(torch_weights(module), [torch.from_numpy(x) for x in inputs], lambda x: x)
    error = relative_error(y, theirs.detach().numpy())
    yield measured(example.name, example.case, "y without dropout", error, limit("torch", np.float64))
    inner = list(module.modules())
    yield check_that(example.name, "nothing kept", not any(part._saved for part in inner))
    drawn = [part.generator.offset for part in inner if hasattr(part, "generator")]
    yield check_that(example.name, "nothing drawn", not any(drawn))


def _kept(record: ModelRecord) -> Iterator[Result]:
    for case, config in record.small_configs().items():
        model = record.model(config).to(dtype=np.float64)
        y = model(*cast(record.batch(config, np.random.default_rng(5), 2)[0], np.float64))
        model.backward(cotangent(y))
        left = [path for path, part in model.named_modules() if part._saved]
        yield check_that(
            f"models.{record.model.__name__}", f"{case}: a backward uses up what was saved, but for {left}", not left
        )


def _recompute(record: ModelRecord) -> Iterator[Result]:
    config, name = record.small_configs()["everything"], f"models.{record.model.__name__}"
    batches = [cast(record.batch(config, np.random.default_rng(i), 2)[0], np.float64) for i in range(2)]
    found: list[Any] = []
    for recompute in (False, True):
        model = record.model(config).to(dtype=np.float64)
        recompute_blocks(model, recompute)
        logits = [model(*batch) for batch in batches]  # two forwards, then their backwards
        blocks = [part for part in model.modules() if isinstance(part, Block)]
        inside = [part for block in blocks for part in block.modules() if part is not block]
        kept = any(part._saved for part in inside)
        yield check_that(name, f"recompute {recompute}: parts keep something", kept is not recompute)
        for number in (1, 0):
            model.backward(cotangent(logits[number], number))
        yield check_that(name, f"recompute {recompute}: all is used", not any(p._saved for p in model.modules()))
        found.append((*logits, *(p.grad for p in model.parameters()), np.array(model.generator.offset)))
    same = all(np.array_equal(one, other) for one, other in zip(*found, strict=True))
    yield check_that(name, "recompute gives the same bits", same)
    if isinstance(model, LanguageModel):  # a block on its own, with its mask by name
        block, x, results = model.blocks[0], np.random.default_rng(5).normal(size=(2, 5, config.embed_dim)), []
        for block.recompute in (False, True):
            model.generator.offset = 0
            y = block(x, mask=model.mask)
            results.append((y, block.backward(cotangent(y))))
        same = all(np.array_equal(one, other) for one, other in zip(*results, strict=True))
        yield check_that(name, "recompute of a block gives the same bits", same)


def _dropout() -> Iterator[Result]:
    x = np.random.default_rng(5).normal(size=(2, 3, 5))
    for probability, draws in ((0.0, 0), (0.001, 1)):
        module = Dropout(probability, generator=Generator(9, DROPOUT))
        y, dx = module(x), module.backward(x)
        yield check_that("Dropout", f"draws at {probability}", module.generator.offset == draws)
        yield check_that("Dropout", f"identity at {probability}", np.array_equal(y, x) != bool(draws))
        yield check_that("Dropout", f"backward at {probability}", np.array_equal(y, dx))


def _frozen(example: ModuleCase) -> Iterator[Result]:
    module, function = ModuleSubject(example, 0).build(np.float64)
    inputs = [function.inputs[name] for name in example.inputs]
    given: list[Any] = []
    with patch.object(Parameter, "accumulate", lambda self, gradient: given.append((self, gradient))):
        for parameter in module.parameters():
            given.clear()
            parameter.requires_grad = False
            module.backward(cotangent(example.call(module, *inputs)))
            parameter.requires_grad = True
            computed = {id(other) for other, gradient in given if gradient is not None}
            expected = {id(other) for other in module.parameters()} - {id(parameter)}
            yield check_that(example.name, f"[{example.case}] without d{parameter.path}", computed == expected)


def _attention(implementation: Implementation) -> MultiHeadAttention:
    """6 query heads and 2 key/value heads of width 5."""
    module = MultiHeadAttention(30, 6, 2, implementation=implementation).to(dtype=np.float64)
    randomize(module)
    return module


def _implementation(implementation: Implementation) -> Iterator[Result]:
    module, x = _attention(implementation), np.random.default_rng(5).normal(size=(2, 4, 30))
    for kernels, best in (("reference", "parallel"), ("auto", "fused")):
        with use_kernels(kernels):  # type: ignore[arg-type]
            module(x)
        name, saved = module._saved.pop()
        wanted = best if implementation == "auto" else implementation
        yield check_that("MultiHeadAttention", f"name under {kernels}", name == wanted)
        kind = type(getattr(saved, "attention", saved))
        yield check_that("MultiHeadAttention", f"saved under {kernels}", kind is SAVED[wanted])


def _weights(implementation: Implementation) -> Iterator[Result]:
    for options in WEIGHED:
        for what, error in compare_attention(implementation, **options).items():
            yield measured("MultiHeadAttention", implementation, what, error, limit("torch", np.float64))


def _cache(implementation: Implementation) -> Iterator[Result]:
    kinds = (GPTConfig, "bias"), (TransformerLMConfig, "bias"), (LlamaConfig, "attn_bias")
    for (kind, bias), window, given in product(kinds, (None, 3), (True, False)):
        record = next(record for record in MODELS.values() if record.config is kind)
        name = record.model.__name__
        everything = record.small_configs()["everything"]
        options = {"embed_dim": 30, "window": window, bias: given, "attn_implementation": implementation}
        config = replace(everything, **options)
        model = record.model(config).to(dtype=np.float64).eval()
        randomize(model)
        ids = np.random.default_rng(5).integers(0, config.vocab_size, (2, config.context_length))
        for padding in (None, np.array([0, 2])):  # the second row begins with two positions that are no text
            alone = [model(ids[row : row + 1, (0 if padding is None else padding[row]) :])[0] for row in range(2)]
            last = np.stack([row[-1] for row in alone])
            error = relative_error(model(ids, padding=padding, logits_to_keep=1)[:, 0], last)
            yield measured(name, implementation, "logits without a cache", error, SAME)
            single = record.model(config).eval()(ids, padding=padding, logits_to_keep=1)
            yield measured(name, implementation, "float32 stays float32", float(single.dtype != np.float32), SAME)
            cache = KeyValueCache(model, batch_size=2)
            cache.clear(padding)
            for start, end in ((0, 3), (3, 4), (4, 7)):
                logits = model(ids[:, start:end], cache, logits_to_keep=1)[:, 0]
                error = relative_error(logits, np.stack([row[end - 1 - config.context_length] for row in alone]))
                yield measured(name, implementation, f"logits after {end}", error, SAME)


def _cache_of_lora() -> Iterator[Result]:
    for rows, out in (((0, 50),), True), (((30, 40),), False):
        module = LoRAAttention(_attention("parallel"), rows, out, 2, 3.0).eval()
        randomize(module)
        cache, x = Grown(), np.random.default_rng(5).normal(size=(2, 5, 30))
        whole = module(x, mask=Mask(causal=True))
        for start, end in ((0, 2), (2, 3), (3, 5)):
            y = module(x[:, start:end], mask=Mask(causal=True), cache=cache)
            error = relative_error(y, whole[:, start:end])
            yield measured("LoRAAttention", "parallel", f"y after {end}", error, SAME)


class Grown:
    """A cache that only grows. memory: what a block that looks at one keeps of it."""

    def __init__(self) -> None:
        self.memory: ProjectedMemory | None = None
        self.held: tuple[list[Array], list[Array]] = ([], [])

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Put k and v behind what is there."""
        for held, given in zip(self.held, (k, v), strict=True):
            held.append(given)
        keys, values = (np.concatenate(held, axis=2) for held in self.held)
        return keys, values


def _cache_of_memory(implementation: Implementation) -> Iterator[Result]:
    record = MODELS["transformer"]
    for bias in (True, False):
        config = replace(
            record.small_configs()["everything"], embed_dim=30, bias=bias, attn_implementation=implementation
        )
        model = record.model(config).to(dtype=np.float64).eval()
        randomize(model)
        (source, target, lengths, _), _ = record.batch(config, np.random.default_rng(5), 2)
        together, memory = model(source, target, lengths), model.encode(source, lengths)
        for end in range(1, target.shape[1] + 1):
            error = relative_error(
                model.decode(target[:, :end], memory, lengths, logits_to_keep=1)[:, 0], together[:, end - 1]
            )
            yield measured("Transformer", implementation, f"logits after {end}, without a cache", error, SAME)
        cache = KeyValueCache(model, batch_size=2)
        for start, end in ((0, 2), (2, 3), (3, 5)):
            # from its first use on, the cache stands for the memory
            given = memory if start == 0 else 0 * memory
            logits = model.decode(target[:, start:end], given, lengths, cache=cache, logits_to_keep=1)[:, 0]
            error = relative_error(logits, together[:, end - 1])
            yield measured("Transformer", implementation, f"logits after {end}", error, SAME)


def _cache_of_heads(implementation: Implementation) -> Iterator[Result]:
    rng, module, cache = np.random.default_rng(5), _attention(implementation).eval(), Grown()
    x, seen = rng.normal(size=(2, 7, 30)), rng.random((2, 6, 7, 7)) < 0.6
    seen[..., 0] = True
    together = module(x, mask=Mask(causal=True, array=seen))
    for start, end in ((0, 3), (3, 4), (4, 7)):
        mask = Mask(causal=True, array=seen[:, :, start:end, :end])
        error = relative_error(module(x[:, start:end], mask=mask, cache=cache), together[:, start:end])
        yield measured("MultiHeadAttention", implementation, f"y after {end}", error, SAME)
