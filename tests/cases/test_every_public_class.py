"""Every public class under what users do to objects by habit: copy, pickle, threads, lists and arrays of other kinds.

The classes are found, not listed: all that public packages export. An object of each is built by the records of
modules and models, or by `EXAMPLES`; a new public class needs an example, and the first test says so. After each habit
the object is used, and gives what a new one gives, or one sentence says why not.
"""

import copy
import dataclasses
import functools
import importlib
import inspect
import pickle
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import compyute_transformer as ct
from compyute_transformer import (
    data,
    exchange,
    explain,
    generation,
    grading,
    models,
    nn,
    ops,
    optim,
    parallel,
    random,
    training,
    verify,
)
from compyute_transformer.errors import CompyuteError
from compyute_transformer.models.registry import MODELS
from compyute_transformer.nn import Module, evaluating
from compyute_transformer.verify.modules import ModuleSubject
from compyute_transformer.verify.record import ModuleCase
from compyute_transformer.verify.registry import MODULES

PACKAGES = [name for name in ct.__all__ if inspect.ismodule(getattr(ct, name))]
OTHERS = ["parallel", "plotting", "random", "grading", "training.settings"]


class Example(NamedTuple):
    """How an object is made, and what is done with it; `use` returns values, or arrays."""

    build: Callable[[], Any]
    use: Callable[[Any], Any]


def values(thing: Any) -> Any:
    """Return everything that an object holds as values that can be compared."""
    if isinstance(thing, np.ndarray):
        return str(thing.dtype), thing.shape, thing.tobytes()
    if isinstance(thing, Module):
        return {name: values(array) for name, array in thing.state_dict().items()}
    if isinstance(thing, dict):
        return {str(key): values(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [values(value) for value in thing]
    if thing is None or isinstance(thing, str | bytes | int | float | Path | np.generic | type):
        return thing
    if callable(thing) and hasattr(thing, "__qualname__"):
        return thing.__qualname__
    return type(thing).__name__, {name: values(value) for name, value in vars(thing).items() if name[0] != "_"}


# --- examples ---


def gpt() -> ct.GPT:
    return ct.GPT(ct.GPTConfig(5, context_length=8, embed_dim=16, num_heads=2, num_layers=2), seed=1)


IDS = np.array([[0, 3, 1, 4]])
TOKENS = np.arange(40) % 5
PIXELS = np.arange(6 * 4 * 4 * 1, dtype=np.uint8).reshape(6, 4, 4, 1)
PAIRS = [data.Pair("ab"[: 1 + i % 2] * (1 + i % 3), "ba", "pairs.tsv", i + 1) for i in range(9)]


def characters() -> data.CharacterTokenizer:
    return data.CharacterTokenizer("abc\n")


def normalized(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 255


def half(step: int) -> float:
    return 0.5**step


def trained(optimizer: Any) -> Any:
    """Take a step with gradients that are a function of the weights."""
    for parameter in optimizer.parameters:
        parameter.grad = np.cos(parameter.data)
    optimizer.step()
    return [parameter.data.copy() for parameter in optimizer.parameters]


def optimizer(kind: Any) -> Any:
    made = kind(nn.Linear(3, 4, generator=random.Generator(2)).parameters(), lr=0.1)
    trained(made)
    return made


def scheduled(scheduler: Any) -> Any:
    rates = []
    for _ in range(3):
        trained(scheduler.optimizer)
        scheduler.step()
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
    return rates


def cache() -> generation.KeyValueCache:
    made = generation.KeyValueCache(gpt(), batch_size=2, capacity=8)
    with evaluating():
        gpt()(np.repeat(IDS, 2, axis=0), cache=made)
    return made


def continued(made: Any) -> Any:
    """Read one token after those in a cache, then as the rows in the other order, then one more."""
    with evaluating():
        first = gpt()(np.array([[1], [2]]), cache=made)
        made.select([1, 0])
        return first, gpt()(np.array([[2], [0]]), cache=made), made.length


def batches(made: Any) -> Any:
    return [made.batch(i) for i in (3, 0, 70)] + [made.next(), made.next(), made.cursor]


def reported(made: Any) -> Any:
    made.close()
    return type(made).__name__


def encoded(tokenizer: Any) -> Any:
    ids = tokenizer.encode("abcab\n")
    return list(ids), tokenizer.decode(ids), tokenizer.vocab_size


def byte_pairs() -> Any:
    return data.train_tokenizer("bpe", "abcab abcab aabbcc\n" * 9, 262)


def images() -> data.Images:
    return data.load_images("digits")


def loss(made: Any) -> Any:
    logits = np.cos(np.arange(12, dtype=np.float32)).reshape(3, 4)
    return made(logits, np.array([0, 2, -100])), made.backward()


def traced(trace: Any) -> Any:
    return values(trace.logits), trace.loss, [op.name for op in trace.ops]


@functools.cache
def saved_model() -> Path:
    """Return a directory with a GPT, in the layout of Hugging Face."""
    folder = Path(tempfile.mkdtemp())
    gpt().save_pretrained(folder)
    return folder


def pretrained() -> exchange.Pretrained:
    return exchange.Pretrained(saved_model())


def summed(total: Any) -> Any:
    for x in (1, 2, 4):
        total.add(np.full(3, x, np.float32))
    return total.take().copy()


def tiny_settings() -> training.Settings:
    return training.Settings.resolve("nano", None, {"steps": 4, "context_length": 8, "warmup": 1})


def language_task() -> training.LanguageTask:
    return training.LanguageTask(gpt(), characters(), TOKENS, TOKENS[:20], tiny_settings().training)


def learned_from(task: Any) -> Any:
    return [task.loss_and_gradient(part, weight) for part, weight in task.batch()]


def config() -> training.RunConfig:
    return training.RunConfig(tiny_settings(), {"vocab_size": 5}, "text", ("a.txt",), "0" * 64)


def run_result() -> training.RunResult:
    fields = {field.name: None for field in dataclasses.fields(training.RunResult)}
    return training.RunResult(**{**fields, "folder": Path("runs/a"), "step": 3, "metrics": {"loss": 1.0}})


EXAMPLES: dict[Any, Example] = {
    nn.Module: Example(nn.Module, values),
    nn.ModuleList: Example(lambda: nn.ModuleList([nn.LayerNorm(3), nn.LayerNorm(2)]), values),
    nn.Block: Example(nn.Block, values),
    nn.Parameter: Example(lambda: nn.Parameter(np.ones((2, 3))), lambda p: values([p.data, p.grad, p.requires_grad])),
    nn.Observer: Example(nn.Observer, values),
    nn.CrossEntropyLoss: Example(lambda: nn.CrossEntropyLoss(label_smoothing=0.1), loss),
    ops.Mask: Example(lambda: ops.Mask(causal=True, key_lengths=np.array([2, 3])), values),
    models.ModelOutput: Example(lambda: models.ModelOutput(np.ones(3)), values),
    models.LanguageModel: Example(models.LanguageModel, values),
    optim.AdamW: Example(lambda: optimizer(optim.AdamW), trained),
    optim.SGD: Example(lambda: optimizer(functools.partial(optim.SGD, momentum=0.9)), trained),
    optim.Schedule: Example(lambda: optim.Schedule(0.1, 10, warmup=2), lambda s: [s(i) for i in range(12)]),
    optim.CosineAnnealingLR: Example(lambda: optim.CosineAnnealingLR(optimizer(optim.SGD), 5), scheduled),
    optim.LambdaLR: Example(lambda: optim.LambdaLR(optimizer(optim.AdamW), half), scheduled),
    data.CharacterTokenizer: Example(characters, encoded),
    data.BytePairTokenizer: Example(byte_pairs, encoded),
    data.Corpus: Example(lambda: data.Corpus("a", "text", ("a.txt",)), values),
    data.Pair: Example(lambda: PAIRS[0], values),
    data.Pairs: Example(lambda: data.Pairs("a", ("a.tsv",), tuple(PAIRS)), values),
    data.EncodedPairs: Example(
        lambda: data.EncodedPairs(PAIRS, characters(), 8, "training"), lambda made: made.batch(np.array([3, 0]))
    ),
    data.PairBatch: Example(lambda: data.PairBatches(PAIRS, characters(), 2, 8).batch(0), values),
    data.PairBatches: Example(lambda: data.PairBatches(PAIRS, characters(), 2, 8, seed=3), batches),
    data.TokenBatches: Example(lambda: data.TokenBatches(TOKENS, 2, 4, seed=3), batches),
    data.ImageBatches: Example(
        lambda: data.ImageBatches(PIXELS, np.arange(6) % 2, 4, normalized, seed=3, shift=1.0), batches
    ),
    data.ImageEncoder: Example(
        lambda: data.ImageEncoder(("a", "b"), 4, 4, 1, (0.4,), (0.2,)), lambda encoder: encoder.normalize(PIXELS)
    ),
    data.Images: Example(images, lambda found: [found.pixels(None)[::100], found.labels, found.classes]),
    data.SpecialTokens: Example(lambda: data.special_tokens(characters()), values),
    explain.Trace: Example(lambda: explain.trace(gpt(), IDS), traced),
    grading.Grade: Example(lambda: grading.Grade("gelu", ("forward",), 3, ("y",), (), True), values),
    generation.KeyValueCache: Example(cache, continued),
    generation.Choice: Example(lambda: generation.Choice("a", -1.0, 0.5), values),
    exchange.GenerationDefaults: Example(lambda: exchange.GenerationDefaults(generation.Sampling()), values),
    exchange.ChatTemplate: Example(
        lambda: exchange.ChatTemplate("{{ messages[0].content }}{{ eos }}", {"eos": "</s>"}),
        lambda template: template.render([{"role": "user", "content": "hello"}]),
    ),
    exchange.Pretrained: Example(pretrained, lambda found: values(found.model)),
    generation.Sampling: Example(lambda: generation.Sampling(top_k=3, stop=("a",)), values),
    generation.TextStream: Example(
        lambda: generation.stream(gpt(), characters(), "ab", max_new_tokens=5), lambda made: ("".join(made), made.ids)
    ),
    generation.Translation: Example(lambda: generation.Translation("a", (1,), (-0.5,), -0.5, True), values),
    parallel.Single: Example(parallel.Single, lambda one: (one.size, one.rank, one.gather(3))),
    parallel.DataParallel: Example(lambda: parallel.DataParallel(gpt(), parallel.Single()), lambda d: values(d.model)),
    parallel.TreeSum: Example(
        parallel.TreeSum,
        lambda total: [total.add(np.full(3, x, np.float32)) for x in (1, 2, 4)] and total.take().copy(),
    ),
    training.Start: Example(
        lambda: training.Start("a", SimpleNamespace(model=gpt(), tokenizer=characters())),
        lambda start: [start.source, values(start.model), start.tokenizer.encode("ab")],
    ),
    random.Generator: Example(lambda: random.Generator(3), lambda made: [made.next(), made.next()]),
    random.RandomKey: Example(lambda: random.RandomKey(3, 1, 2), lambda key: random.normal(key, (3, 5))),
    training.EarlyStopping: Example(training.EarlyStopping, values),
    training.Evaluation: Example(lambda: training.Evaluation({"loss": 1.0}, None, 2.0), values),
    training.TaskEvaluation: Example(lambda: training.TaskEvaluation({"loss": 1.0}), values),
    training.Prediction: Example(lambda: training.Prediction("a", "b", 0.5, {"b": 0.5}), values),
    training.JsonReporter: Example(training.JsonReporter, reported),
    training.LineReporter: Example(training.LineReporter, reported),
    training.Reporters: Example(lambda: training.Reporters([training.JsonReporter()]), reported),
    training.LanguageTask: Example(language_task, learned_from),
    training.LoadedRun: Example(lambda: training.LoadedRun(gpt(), characters(), tiny_settings(), config(), 3), values),
    training.RunConfig: Example(config, values),
    training.RunResult: Example(run_result, values),
    training.Trainer: Example(
        lambda: training.Trainer(language_task(), tiny_settings().training, Path("run")), lambda trainer: trainer.step
    ),
    training.Settings: Example(tiny_settings, values),
    verify.Result: Example(lambda: verify.Result("a", "b", "torch", "float64", "x", 0.0, 1e-9), values),
}


def of_module(example: ModuleCase) -> Example:
    def use(module: Module) -> Any:
        rng = np.random.default_rng(1)
        inputs = [rng.normal(size=shape).astype(np.float32) for shape in example.inputs.values()]
        y = example.call(module, *inputs)
        return y, module.backward(np.sin(y)), [p.grad for p in module.parameters()]

    return Example(lambda: ModuleSubject(example).build(np.float32)[0], use)


def of_model(record: Any) -> Example:
    config = next(reversed(record.small_configs().values()))

    def use(model: Module) -> Any:
        inputs, _ = record.batch(config, np.random.default_rng(2), 3)
        y = model(*inputs)
        model.backward(np.sin(y))
        return y, [p.grad for p in model.parameters()]

    return Example(lambda: record.model(config, seed=3), use)


EXAMPLES[generation.Continuation] = Example(
    lambda: generation.Continuation("ab", (1, 2), (-0.1, -0.2), -0.3, False), values
)
EXAMPLES |= {type(ModuleSubject(example).build(np.float32)[0]): of_module(example) for example in reversed(MODULES)}
EXAMPLES |= {record.model: of_model(record) for record in MODELS.values()}
EXAMPLES |= {r.config: Example(lambda r=r: next(iter(r.small_configs().values())), values) for r in MODELS.values()}


# --- the classes ---


def public_classes() -> Iterator[tuple[str, type]]:
    for package in (*PACKAGES, *OTHERS):
        module = importlib.import_module(f"compyute_transformer.{package}")
        for name in module.__all__:
            if inspect.isclass(found := getattr(module, name)):
                yield f"{package}.{name}", found


def example_of(kind: Any) -> Example | None:
    if kind in EXAMPLES:
        return EXAMPLES[kind]
    if issubclass(kind, BaseException):
        return Example(lambda: kind("what came and what is right"), lambda error: (type(error).__name__, str(error)))
    if dataclasses.is_dataclass(kind) and all(has_default(field) for field in dataclasses.fields(kind)):
        return Example(kind, values)
    return None


def has_default(field: Any) -> bool:
    return dataclasses.MISSING is not field.default or dataclasses.MISSING is not field.default_factory


def is_built(kind: Any) -> bool:
    """Return whether there are objects of a class: neither a protocol, nor abstract, nor a base, nor only functions."""
    bases = (optim.Optimizer,)
    only_functions = not hasattr(kind, "_fields") and all(
        isinstance(member, classmethod | staticmethod) for name, member in vars(kind).items() if name[0] != "_"
    )
    if kind in EXAMPLES:
        return True
    return not (
        getattr(kind, "_is_protocol", False)
        or inspect.isabstract(kind)
        or kind in bases
        or (only_functions and not issubclass(kind, BaseException) and not dataclasses.is_dataclass(kind))
    )


CLASSES = {kind: name for name, kind in public_classes() if is_built(kind)}
NAMES = [pytest.param(kind, id=name) for kind, name in CLASSES.items()]


def test_every_public_class_has_an_example() -> None:
    missing = [name for kind, name in CLASSES.items() if example_of(kind) is None]
    assert not missing, (
        f"{', '.join(missing)}: add an example of each to EXAMPLES in this file, as Example(build, use): how an object "
        "is made, and what is done with it."
    )
    assert len(CLASSES) > 80


# --- the habits ---

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "pickle of a copy": lambda thing: pickle.loads(pickle.dumps(copy.deepcopy(thing))),
}
# What holds a stream or a generator cannot be copied, and Python says so.
NOT_COPIED = {generation.TextStream, training.JsonReporter, training.LineReporter, training.Reporters}


def outcome(call: Callable[..., Any], *args: Any) -> tuple[Any, str]:
    """Return what a call returns, or the sentence that refuses it. Other errors are raised."""
    try:
        return call(*args), ""
    except (CompyuteError, TypeError, ValueError) as error:
        assert 10 < len(str(error)) < 700, error  # noqa: PT017
        return None, str(error)


@pytest.mark.parametrize("habit", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("kind", NAMES)
def test_a_copy_gives_what_the_original_gives(kind: Any, habit: Any) -> None:
    example = example_of(kind)
    assert example is not None
    expected = values(example.use(example.build()))
    original = example.build()
    again, refusal = outcome(habit, original)
    if refusal:
        assert kind in NOT_COPIED, refusal
        return
    assert type(again) is kind or issubclass(kind, type(again))
    assert values(example.use(again)) == expected
    if habit is not copy.copy:  # a shallow copy shares what it holds, as everywhere in Python
        assert values(example.use(original)) == expected


@pytest.mark.parametrize("kind", NAMES)
def test_another_thread_gives_the_same(kind: Any) -> None:
    example = example_of(kind)
    assert example is not None
    expected = values(example.use(example.build()))
    original, found = example.build(), []
    thread = threading.Thread(target=lambda: found.append(values(example.use(original))))
    thread.start()
    thread.join()
    assert found == [expected]


# --- ids and tokens of every kind ---

KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "int16": lambda ids: ids.astype(np.int16),
    "uint8": lambda ids: ids.astype(np.uint8),
    "uint64": lambda ids: ids.astype(np.uint64),
    "big-endian": lambda ids: ids.astype(">i4"),
    "read-only": lambda ids: np.frombuffer(ids.astype(np.int64).tobytes(), np.int64).reshape(ids.shape),
    "Fortran order": np.asfortranarray,
    "reversed twice": lambda ids: ids[..., ::-1].copy()[..., ::-1],
    "list": lambda ids: ids.tolist(),
    "floats": lambda ids: ids.astype(np.float32),
    "fractions": lambda ids: ids + 0.4,
    "objects": lambda ids: ids.astype(object),
    "strings": lambda ids: ids.astype(str),
    "a number": lambda ids: 3,
    "None": lambda ids: None,
}


def batched(tokens: Any) -> Any:
    return data.TokenBatches(tokens, 2, 4, seed=3).batch(5)


CALLS: dict[str, Callable[[Any], Any]] = {
    "GPT": lambda ids: gpt().eval()(ids),
    "GPT.generate": lambda ids: gpt().eval().generate(ids, max_new_tokens=3, temperature=0.0),
    "generate_ids": lambda ids: generation.generate_ids(gpt(), ids, max_new_tokens=3, temperature=0.0),
    "attention_maps": lambda ids: generation.attention_maps(gpt(), ids),
    "trace": lambda ids: explain.trace(gpt(), ids).logits,
    "prefill": lambda ids: generation.prefill(gpt().eval(), ids, generation.KeyValueCache(gpt(), len(IDS), 8)),
}
OF_TOKENS: dict[str, Callable[[Any], Any]] = {
    "TokenBatches": batched,
    "validation_windows": lambda tokens: list(data.validation_windows(tokens, 4, 2)),
    "decode": lambda tokens: characters().decode(tokens),
    "decode of byte pairs": lambda tokens: byte_pairs().decode(tokens),
}
TABLE = [(name, call, IDS) for name, call in CALLS.items()] + [(n, call, TOKENS % 3) for n, call in OF_TOKENS.items()]


# What Python says where nobody asked what came.
BARE = re.compile(
    r"object (is not|has no|cannot)|unsupported operand|object is not subscriptable|not supported between"
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("call", "ids"), [(call, ids) for _, call, ids in TABLE], ids=[name for name, *_ in TABLE])
def test_ids_of_every_kind_are_right_or_refused(call: Any, ids: np.ndarray, kind: str) -> None:
    found, refusal = outcome(lambda: call(KINDS[kind](ids)))
    if refusal:
        assert not BARE.search(refusal)
        return
    assert kind != "fractions", "fractions were taken for ids"
    assert plain(found) == plain(call(ids))


def plain(found: Any) -> Any:
    """Return the values alone: the dtype of ids follows that of the tokens."""
    if isinstance(found, np.ndarray):
        return found.astype(np.float64).tolist()
    return [plain(item) for item in found] if isinstance(found, list | tuple) else found
