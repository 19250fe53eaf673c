"""What the models keep beyond right gradients.

embedded    the gradient that a model returns is that of the vectors its embedding gave, or that were given instead
start       positions begin at 0 where no start is given
padding     positions count from the first token of a row
headless    Bert without a head returns the vectors of its last block, and goes back from there
record      attention weights and hidden states on request are those of the forward, which they leave as it is
attention   an attention of another class tells its weights, or is refused
observe     observers see what runs within their block, and nothing after it
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from compyute_transformer.arrays import Array
from compyute_transformer.errors import ConfigError
from compyute_transformer.models.output import record_forward
from compyute_transformer.models.registry import MODELS, ModelRecord
from compyute_transformer.nn import (
    Embedding,
    LearnedPosition,
    Linear,
    Module,
    ModuleList,
    MultiHeadAttention,
    Observer,
    SinusoidalPosition,
    observe,
)
from compyute_transformer.verify.function import randomize
from compyute_transformer.verify.record import cast, cotangent
from compyute_transformer.verify.result import Result, relative_error

from .probes import Probe
from .properties import Property, check_that, measured

__all__ = ["model_probes", "model_properties"]

LANGUAGE = [record for record in MODELS.values() if record.task == "language"]
SAME = 1e-12


def model_properties() -> Iterator[Property]:
    """Every property of the models, with its name."""
    for record in MODELS.values():
        if record.task != "images":
            yield f"embedded models.{record.model.__name__}", partial(_embedded, record)
    for record in LANGUAGE:
        yield f"vectors models.{record.model.__name__}", partial(_vectors, record)
        yield f"start models.{record.model.__name__}", partial(_start, record)
        yield f"record models.{record.model.__name__}", partial(_record, record)
    yield "padding", _padding
    yield "headless models.Bert", _headless
    yield "attention", _attention
    yield "observe", _observe


def _build(record: ModelRecord, variant: str = "everything") -> tuple[Any, tuple[Array, ...]]:
    config = record.small_configs()[variant]
    model = record.model(config, 1).to(dtype=np.float64)
    randomize(model)
    return model, cast(record.batch(config, np.random.default_rng(5), 2)[0], np.float64)


class Calls(Observer):
    """Keeps the path, the phase and the first input of each call."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, Any]] = []

    def before(
        self, path: str, module: Module, phase: Any, inputs: tuple[Any, ...], keywords: dict[str, Any] | None = None
    ) -> None:
        """Keep the call."""
        self.seen.append((path, phase, inputs[0] if inputs else None))


def _embedded(record: ModelRecord) -> Iterator[Result]:
    model, inputs = _build(record)
    y, calls = model(*inputs), Calls()
    embedding = next(path for path, module in model.named_modules() if isinstance(module, Embedding))
    with observe(model, calls):
        returned = model.backward(cotangent(y))
    given = [d for path, phase, d in calls.seen if (path, phase) == (embedding, "backward")][::-1]
    several = returned if isinstance(returned, tuple) else (returned,)
    for index, (ours, theirs) in enumerate(zip(several, given, strict=True)):
        same = ours is not None and np.array_equal(ours, theirs)
        yield check_that(record.model.__name__, f"the gradient of embedded tokens, {index}", same)


def _vectors(record: ModelRecord) -> Iterator[Result]:
    name = record.model.__name__
    model, (ids, *_) = _build(record)
    table, offset = model.token_embedding.weight, model.generator.offset
    y = model(ids)
    dx = model.backward(cotangent(y))
    model.zero_grad()
    model.generator.offset = offset  # dropout drops the same elements
    vectors = table.data[ids]
    yield check_that(name, "logits of vectors", np.array_equal(model(inputs_embeds=vectors), y))
    yield check_that(name, "gradient of vectors", np.array_equal(model.backward(cotangent(y)), dx))
    tied = model.head.weight is table
    yield check_that(name, "no gradient of the embedding", tied or table.grad is None)
    yield check_that(name, "nothing kept", not any(module._saved for module in model.modules()))


def _start(record: ModelRecord) -> Iterator[Result]:
    model, (ids, *_) = _build(record)
    model.eval()
    yield check_that(record.model.__name__, "start left out", np.array_equal(model.embed(ids), model.embed(ids, 0)))


def _padding() -> Iterator[Result]:
    """Give more positions than columns: no position may be read from the end of a table that is too short."""
    x = np.random.default_rng(5).normal(size=(3, 9, 2))
    for position in (LearnedPosition(12, 2), SinusoidalPosition()):
        position.to(dtype=np.float64).eval()
        found = position(x, 3, np.array([0, 5, 11]))
        for row, padding in enumerate((0, 5, 11)):
            for t in range(9):
                wanted = position(x[row : row + 1, t : t + 1], max(t + 3 - padding, 0))[0, 0]
                yield measured(type(position).__name__, "", "padded", relative_error(found[row, t], wanted), SAME)


def _headless() -> Iterator[Result]:
    record = MODELS["bert"]
    config = replace(record.small_configs()["plain"], masked_head=False)
    model = record.model(config, 1).to(dtype=np.float64)
    randomize(model)
    inputs, rng, weights = (
        record.batch(config, np.random.default_rng(5), 2)[0],
        np.random.default_rng(5),
        model.flat.data,
    )
    y = model(*inputs)
    dy, direction = cotangent(y), rng.normal(size=weights.shape)
    model.backward(dy)
    slope, values = (model.flat.grad * direction).sum(), []
    for step in (1e-6, -2e-6):
        weights += step * direction
        values.append((model.eval()(*inputs) * dy).sum())
    error = abs(slope - (values[0] - values[1]) / 2e-6) / abs(slope)
    yield check_that("models.Bert", "vectors (B, T, C)", y.shape == (*inputs[0].shape, config.embed_dim))
    yield measured("models.Bert", "without a head", "slope", error, 1e-6)


def _record(record: ModelRecord) -> Iterator[Result]:
    name = record.model.__name__
    model, (ids, *_) = _build(record)
    model.eval()
    for options in ({}, {"padding": np.array([0, 2])}):
        plain = model(ids, **options)
        both = model(ids, return_attention=True, return_hidden_states=True, **options)
        alone = model(ids, return_hidden_states=True, **options)
        for output in (both, alone):
            yield check_that(name, f"logits, {list(options)}", np.array_equal(output.logits, plain))
            streams = [np.array_equal(*pair) for pair in zip(alone.hidden_states, both.hidden_states, strict=True)]
            yield check_that(name, f"streams, {list(options)}", all(streams))
        yield check_that(name, "what is not asked for", alone.attentions is None)
    output = model(ids, return_attention=True, return_hidden_states=True)
    x, states, weights = model.embed(ids), output.hidden_states, output.attentions
    for number, block in enumerate(model.blocks):
        before = block.attention_norm(x) if record.name != "transformer_lm" else x
        wanted = block.attention.forward_with_weights(before, None, model.mask)[1]
        yield check_that(name, f"weights of block {number}", np.array_equal(weights[number], wanted))
        yield check_that(name, f"stream before block {number}", np.array_equal(states[number], x))
        x = block(x, model.mask)
    yield check_that(name, "the last stream", np.array_equal(states[-1], x) and len(states) == len(weights) + 1)


def mean_of(x: Array) -> Array:
    """Return the mean of all positions, at each of them."""
    return np.broadcast_to(x.mean(1, keepdims=True), x.shape)


class Even(Module):
    """An attention of another class, whose weights are all alike."""

    def forward(self, x: Array, memory: Array | None = None, mask: Any = None) -> Array:
        """Return the mean of all positions."""
        return mean_of(x)

    def forward_with_weights(self, x: Array, memory: Array | None = None, mask: Any = None) -> tuple[Array, Array]:
        """Return the same, and the weights."""
        T = x.shape[1]
        return mean_of(x), np.full((len(x), 1, T, T), 1.0 / T)


class Untold(Module):
    """An attention of another class that does not tell its weights."""

    def forward(self, x: Array, memory: Array | None = None, mask: Any = None) -> Array:
        """Return what came."""
        return x


class Mixed(Module):
    """A model of two attentions: one of another class by its usual name, one of the library's by an unusual name."""

    def __init__(self, attention: Module) -> None:
        super().__init__()
        self.attention, self.look = attention, MultiHeadAttention(4, 2)
        self.blocks = ModuleList([Linear(4, 4)])

    def forward(self, x: Array) -> Array:
        """Run one after the other."""
        x = self.attention(x)
        x = self.blocks[0](x)
        y: Array = self.look(x)
        return y


def _attention() -> Iterator[Result]:
    x = np.random.default_rng(5).normal(size=(2, 3, 4)).astype(np.float32)
    model = Mixed(Even()).eval()
    y, recorder = record_forward(model, True, x)
    yield check_that("record_forward", "the result", np.array_equal(y, model(x)))
    yield check_that("record_forward", "both attentions", list(recorder.attentions) == ["attention", "look"])
    weights = recorder.attentions["attention"]
    yield check_that("record_forward", "its weights", np.array_equal(weights, np.full((2, 1, 3, 3), 1 / 3)))
    hidden = Mixed(Even()).eval()
    object.__setattr__(hidden.look, "forward", lambda x: x)  # a forward that no observer sees
    for case in (Mixed(Untold()).eval(), hidden):
        path = "attention is a Untold" if case is not hidden else "look is a MultiHeadAttention"
        refused = ""
        try:
            record_forward(case, True, x)
        except ConfigError as error:
            refused = str(error)
        yield check_that("record_forward", f"refuses: {path}", f"return_attention: {path}" in refused)
        yield check_that("record_forward", "no weights asked for", record_forward(case, False, x)[1].attentions == {})


def _observe() -> Iterator[Result]:
    model, x = Mixed(Even()).eval(), np.zeros((1, 2, 4), np.float32)
    outer, inner = Calls(), Calls()
    with observe(model, outer):
        with observe(model.blocks, inner):
            model(x)
        within = len(outer.seen)
        model(x)
    after = len(outer.seen)
    model(x)
    paths = [path for path, _, _ in outer.seen]
    yield check_that("observe", "paths", paths[:within] == ["", "attention", "blocks.0", "look"])
    yield check_that("observe", "paths from below", [path for path, _, _ in inner.seen] == ["0"])
    yield check_that("observe", "the outer one stays", paths[within:] == paths[:within])
    left = [path for path, module in model.named_modules() if module._observers]
    yield check_that("observe", "none is left", len(outer.seen) == after and not left)
    twice = Mixed(Even())
    twice.look = twice.attention
    shared = [path for path, _ in twice.named_modules()]
    yield check_that("Module", "each module once", shared == ["", "attention", "blocks", "blocks.0"])


# --- probes ----------------------------------------------------------------------------------------------------------


def model_probes(seed: int) -> Iterator[Probe]:
    """Probes of what models return on request, the same for the same seed."""
    for record in LANGUAGE:
        yield Probe(f"record {record.model.__name__}", partial(_run_record, record))
    yield Probe("record another attention", _run_another)


def _run_another() -> Any:
    model = Mixed(Even()).eval()
    randomize(model)
    y, recorder = record_forward(model, True, np.random.default_rng(5).normal(size=(1, 2, 4)).astype(np.float32))
    return y, recorder.attentions["attention"]


def _run_record(record: ModelRecord) -> Any:
    model, (ids, *_) = _build(record, "plain")
    output = model(ids, return_attention=True, return_hidden_states=True)
    dx = model.backward(cotangent(output.logits, 3))
    vectors = model.token_embedding.weight.data[ids] + 1.0
    instead = model(inputs_embeds=vectors)
    d_instead = model.backward(cotangent(instead, 4))
    return tuple(output), dx, instead, d_instead, model.eval().embed(ids)
