"""Run: explain a trained run: what it makes of a text or an image, at its first step and at each of its checkpoints."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..arrays import Device, to_device
from ..data.images.files import read_image
from ..data.pairs.batches import EncodedPairs
from ..data.pairs.corpus import Pair
from ..errors import DataError, RangeError, RunError
from ..generation.translation import translate
from ..models.registry import build_model
from ..ops.loss import IGNORE_INDEX
from ..threads import on_threads
from ..training import load_run
from ..training.reporting.journal import read_log
from ..training.run import checkpoint
from ..training.run.config import reload_data
from .page import Document, Frame, Words, frame_of, words_of
from .trace import Trace, next_tokens, trace

__all__ = ["Request", "explain_run"]


@dataclass(frozen=True)
class Request:
    """What to explain. prompt: a text, or the source of a translation. target: the text that follows, the translation,
    or the class. image: a file of an image; without one, the first validation image. device: to compute on.
    """

    prompt: str = ""
    target: str | None = None
    image: Path | None = None
    which: Literal["best", "last"] = "best"
    kernels: Literal["auto", "reference"] = "reference"
    device: Device = "cpu"


def explain_run(folder: str | Path, request: Request) -> str:
    """Return the page of a run; see `page`.

    Raises RunError for a run without a model of its own, for no prompt where a text is read, and CheckpointError for a
    damaged run; RangeError for a text longer than the context; VocabularyError for characters that the run never saw.
    """
    with on_threads(1):  # products as small as those of one text are slower on several
        return _document(Path(folder), request).write()


def _document(folder: Path, request: Request) -> Document:
    loaded = load_run(folder, request.which, request.device)
    loaded.model.precision = None  # float32, so that every number is the sum that the page shows
    inputs, targets, words = _inputs(folder, loaded, request)
    frames: list[Frame] = []
    current, chosen = 0, None
    for label, step, model in _models(folder, loaded):
        traced = trace(model, *inputs, targets=targets, kernels=request.kernels)
        if step == loaded.step:
            current, chosen = len(frames), traced
        frames.append(frame_of(traced, label, step))
    assert chosen is not None
    return Document(
        f"{folder.resolve().name}, step {loaded.step:,}",
        chosen,
        words(chosen),
        frames,
        current,
        _curve(folder),
        request.prompt,
    )


def _models(folder: Path, loaded: Any) -> Iterator[tuple[str, int, Any]]:
    """Yield the model with its first weights, which follow from the seed, and with those of each checkpoint."""
    if not loaded.config.custom:
        untrained = build_model(loaded.config.model, loaded.settings.training.seed)
        yield "before training", 0, untrained.to(loaded.model.device)
    for step in checkpoint.steps(folder):
        if step == loaded.step:
            yield f"step {step:,}", step, loaded.model
            continue
        path = checkpoint.folder_of(folder, step)
        arrays = checkpoint.load_arrays(path, checkpoint.load_state(path), checkpoint.MODEL)
        model = build_model(loaded.config.model)
        model.load_state_dict(arrays)
        yield f"step {step:,}", step, model.to(loaded.model.device)


def _curve(folder: Path) -> dict[str, list[list[float]]]:
    log = read_log(folder)
    training = [[v["step"], v["loss"]] for v in log if v.get("event") == "step" and "loss" in v]
    validation = [[v["step"], v["validation_loss"]] for v in log if "validation_loss" in v]
    return {"training": training, "validation": validation}


# --- inputs ---


def _inputs(folder: Path, loaded: Any, request: Request) -> tuple[tuple[Any, ...], np.ndarray, Any]:
    """Return the inputs of the model, the targets, and a function of a trace that returns its words."""
    kind = loaded.settings.data.kind
    given, what = ("prompt", "text") if kind == "images" else ("image", "images")
    if getattr(request, given):
        raise RunError(f"explain: --{given} is for a run that learned {what}, got one of {kind}. Leave it out.")
    if kind == "images":
        return _image(folder, loaded, request)
    if kind == "masked":
        raise RunError(
            "explain: a page shows a run that learned the next token, pairs or images, got one that learned hidden "
            "tokens. Trace it in Python: explain.trace(model, (ids,), targets=targets)."
        )
    if kind == "labels":
        raise RunError("explain: a page shows a run that learned the next token, pairs or images, got one of labels.")
    if not request.prompt:
        raise RunError(
            "explain: a run that reads text needs a text to explain, got none. Give --prompt TEXT, say a line of its "
            "data."
        )

    def words(traced: Trace) -> Words:
        return words_of(traced, loaded.tokenizer)

    if kind == "translation":
        return (*_pair(loaded, request), words)
    return (*_text(loaded, request), words)


def _text(loaded: Any, request: Request) -> tuple[tuple[np.ndarray], np.ndarray]:
    prompt = loaded.tokenizer.encode(request.prompt)
    ids = prompt if request.target is None else np.concatenate([prompt, loaded.tokenizer.encode(request.target)])
    length = loaded.model.config.context_length
    if not 2 <= len(ids) <= length:
        raise RangeError(
            f"explain: a text has 2 to {length} tokens, the context of the model, got {len(ids)}. "
            f"{'Shorten' if len(ids) > length else 'Lengthen'} it."
        )
    targets = next_tokens(ids[None])
    if request.target is not None:
        targets[:, : len(prompt) - 1] = IGNORE_INDEX
    return (ids[None],), targets


def _pair(loaded: Any, request: Request) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    target = request.target
    if target is None:
        room = loaded.model.config.context_length - 1  # the end of a target takes a position too
        target = translate(loaded.model, loaded.tokenizer, [request.prompt], max_new_tokens=room)[0].text
    pairs = [Pair(request.prompt, target, "--prompt", 1)]
    batch = EncodedPairs(pairs, loaded.tokenizer, loaded.model.config.context_length, "given").batch(np.array([0]))
    return tuple(batch[:4]), batch.labels


def _image(folder: Path, loaded: Any, request: Request) -> tuple[tuple[np.ndarray], np.ndarray, Any]:
    encoder = loaded.encoder
    if request.image is not None:
        size = (encoder.height, encoder.width)
        pixels, label = read_image(request.image, encoder.channels, size)[None], None
    else:
        data: Any = reload_data(folder, loaded.config)
        training, held = loaded.config.record.split(encoder, data, loaded.settings)
        first = training if held is None else held
        pixels, label = first.pixels[:1], int(first.labels[0])
    images = encoder.normalize(pixels)
    if request.target is not None:
        if request.target not in encoder.classes:
            raise DataError(
                f"explain: --target is a class of the run, one of {', '.join(encoder.classes)}, got {request.target!r}."
            )
        label = encoder.classes.index(request.target)
    if label is None:
        label = int(loaded.model(to_device(images, request.device))[0].argmax())

    def words(traced: Trace) -> Words:
        return words_of(traced, None, encoder.classes)

    return (images,), np.array([label]), words
