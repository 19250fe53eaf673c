"""Page: write one self-contained HTML file that shows a model's forward and backward pass, with every number.

    html = page(model, ids, out="page.html")                         # a language model
    html = page(model, ids, tokenizer=tokenizer, out="page.html")    # with the text of the tokens
    html = page(model, images, targets=classes, classes=["cat", "dog"], out="page.html")

The file needs no network and no server: styles and code stand in it, and a content security policy allows nothing else.
Everything about the model is one compressed block (see `planes`), so that no text of a user is ever read as markup.
"""

import base64
import hashlib
import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import _io
from .._version import __version__
from ..arrays import Array, to_numpy
from ..errors import InputError
from .analyses import attention_of, lens_of, norms_of, predictions_of, pushes_of
from .axes import sizes_of
from .checks import check_ops, check_parameters
from .nodes import Node, describe, nodes_of
from .planes import Planes, write_block
from .sources import Sources
from .trace import Trace, trace

__all__ = ["MOST_BYTES", "Document", "Frame", "Words", "frame_of", "page"]

MOST_BYTES = 5_000_000
SCRIPTS = ("data.js", "format.js", "sums.js", "heat.js", "map.js", "tensor.js", "views.js", "teach.js", "main.js")
LONGEST_TOKEN = 200  # characters of a token that are kept; the page says how many it has


@dataclass(frozen=True)
class Words:
    """What stands beside the axes of arrays, and what ids mean.

    axes: the tokens of each input of text, by its name. word: the text of an id, or the name of a class.
    """

    axes: dict[str, list[str]]
    word: Callable[[int], str]


@dataclass
class Frame:
    """What a page shows of one checkpoint. step: None for a model that is no checkpoint."""

    label: str
    step: int | None
    loss: float
    predictions: list[dict[str, Any]]
    lens: dict[str, Any] | None
    norms: list[dict[str, Any]]
    attention: list[tuple[str, np.ndarray]]
    pushes: list[dict[str, Any]]


@dataclass
class Document:
    """Everything that a page holds. frames: of the checkpoints in order; current: the one that `traced` recorded."""

    title: str
    traced: Trace
    words: Words
    frames: list[Frame]
    current: int = 0
    curve: dict[str, list[list[float]]] = field(default_factory=dict)
    prompt: str = ""

    def write(self, limit: int = MOST_BYTES) -> str:
        """Return the HTML, of fewer than `limit` bytes.

        Raises InputError for a model so large that not even the first rows of its arrays fit.
        """
        nodes = nodes_of(self.traced)
        check_ops(self.traced, nodes)
        checks = check_parameters(self.traced)
        budget = limit
        for _ in range(6):
            text = self._html(nodes, checks, budget)
            if len(text.encode()) < limit:
                return text
            budget -= int((len(text.encode()) - limit) * 1.1) + 20_000
        raise InputError(
            f"explain: a page has fewer than {limit:,} bytes, and this model's does not fit. Give a shorter text, or a "
            "smaller model."
        )

    def _html(self, nodes: list[Node], checks: dict[str, Any], budget: int) -> str:
        planes, sources = Planes(), Sources()
        about: dict[str, Any] = {
            "version": __version__,
            "title": self.title,
            "prompt": self.prompt,
            "model": self._model(),
            "sizes": sizes_of(self.traced),
            "axes": {name: [shortened(word) for word in words] for name, words in self.words.axes.items()},
            "loss": self.traced.loss,
            "current": self.current,
            "curve": self.curve,
            "nodes": describe(nodes, planes, sources),
            "names": names_of(nodes),
            "parameter_checks": checks,
            "frames": [self._frame(frame, planes) for frame in self.frames],
            "sources": sources.entries,
        }
        about["words"] = {str(i): shortened(self.words.word(i)) for i in sorted(_ids_in(about["frames"]))}
        planes.fit(max(budget - 600_000, 100_000))  # of texts, code and styles
        about["tensors"], block = planes.write()
        return assemble(self.title, write_block(_finite(about), block))

    def _model(self) -> dict[str, Any]:
        config = getattr(self.traced.model, "config", None)
        return {
            "kind": type(self.traced.model).__name__,
            "config": {k: str(v) for k, v in asdict(config).items()} if is_dataclass(config) else {},  # type: ignore[arg-type]
            "parameters": int(sum(array.size for array in self.traced.parameters.values())),
        }

    def _frame(self, frame: Frame, planes: Planes) -> dict[str, Any]:
        attention = [
            {"path": path, "tensor": planes.add(weights), **_sides(path, self.words.axes)}
            for path, weights in frame.attention
        ]
        return {**vars(frame), "attention": attention}


def page(
    model: Any,
    *inputs: Array | None,
    targets: Array | None = None,
    tokenizer: Any = None,
    classes: Sequence[str] = (),
    out: str | Path | None = None,
    title: str | None = None,
    kernels: Literal["auto", "reference"] = "reference",
) -> str:
    """Return one HTML page of a model's forward, loss and backward; see the top of this file.

    inputs, targets, kernels: see `trace`; of two texts or more in a batch, predictions and lenses show the first.
    tokenizer: turns ids into text; without one, ids are shown. classes: the names of an image classifier's classes.
    out: a file to write the page to. title: what the page is about; by default the class of the model.

    The model is copied first, and dropout is off: the model and its gradients stay as they are.

    Raises:
        InputError: as `trace`. OSError: the file cannot be written.
    """
    traced = trace(model, *inputs, targets=targets, kernels=kernels)
    words = words_of(traced, tokenizer, classes)
    name = title or type(model).__name__
    text = Document(name, traced, words, [frame_of(traced, name, None)]).write()
    if out is not None:
        _io.replace_text(Path(out), text)
    return text


def frame_of(traced: Trace, label: str, step: int | None) -> Frame:
    """Return what a page shows of a checkpoint, from its trace."""
    return Frame(
        label,
        step,
        traced.loss,
        predictions_of(traced),
        lens_of(traced),
        norms_of(traced),
        attention_of(traced),
        pushes_of(traced),
    )


def words_of(traced: Trace, tokenizer: Any = None, classes: Sequence[str] = ()) -> Words:
    """Return the words of the inputs of a trace: tokens of ids, or the places of patches."""

    def word(index: int) -> str:
        if classes:
            return str(classes[index]) if index < len(classes) else f"class {index}"
        if tokenizer is None:
            return str(index)
        if index >= tokenizer.vocab_size:
            special = index - tokenizer.vocab_size
            return ("PADDING", "BEGIN", "END")[special] if special < 3 else str(index)
        return str(tokenizer.decode([index]))

    axes = {
        name: [word(int(i)) for i in to_numpy(array)[0]]
        for name, array in traced.inputs.items()
        if array.ndim == 2 and array.dtype.kind in "iu"
    }
    if not axes and traced.logits.ndim == 2:  # an image: the class token, then the patches
        first = next((o for o in traced.ops if o.name == "class_token"), None)
        count = 0 if first is None else first.outputs["y"].shape[1]
        axes = {"patches": ["class token", *(f"patch {i}" for i in range(count - 1))]} if count else {}
    return Words(axes, word)


def shortened(word: str) -> str:
    """Return a token, or the start of a very long one and how many characters it has."""
    # a half of a surrogate pair cannot be written as UTF-8
    word = word.encode("utf-8", "replace").decode("utf-8")
    return word if len(word) <= LONGEST_TOKEN else f"{word[:LONGEST_TOKEN]}… ({len(word):,} characters)"


def names_of(nodes: list[Node]) -> dict[str, list[Any]]:
    """Return where each name leads, for links: "blocks.2.attention.dv" to a node and its array.

    A full name has the op in it, "blocks.2.attention.attention.dv"; a short one leads to the first that has it.
    """
    found: dict[str, list[Any]] = {}
    for short in (False, True):
        for index, node in enumerate(nodes):
            base = node.path if short else node.id
            for value in node.values:
                for name, array in ((value.name, value.array), (f"d{value.name}", value.gradient)):
                    if array is not None:
                        found.setdefault(f"{base}.{name}" if base else name, [index, name])
    return found


def assemble(title: str, block: str) -> str:
    """Return a page of a title and a block of data."""
    folder = files(__package__) / "assets"
    style = (folder / "style.css").read_text(encoding="utf-8")
    return one_file(
        folder / "page.html", style, [folder / name for name in SCRIPTS], {"TITLE": html.escape(title)}, block
    )


def one_file(
    shell: Traversable,
    style: str,
    scripts: Sequence[Traversable],
    texts: Mapping[str, str],
    data: str,
    source: str = "'none'",
) -> str:
    """Return a page that holds its own styles and code, and may run and load nothing else.

    shell: HTML with a place for each text, @@NAME@@. data: put in last, so that nothing in them is replaced. source:
    what the page may fetch from, in the words of a content security policy.
    """
    code = "\n".join(path.read_text(encoding="utf-8") for path in scripts)
    code = f'"use strict";\n(() => {{\n{code}\n}})();\n'
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; connect-src {source}; "
        f"script-src '{_digest(code)}'; style-src '{_digest(style)}'"
    )
    page = shell.read_text(encoding="utf-8")
    for name, text in {"POLICY": policy, "STYLE": style, "SCRIPT": code, **texts, "DATA": data}.items():
        page = page.replace(f"@@{name}@@", text)
    return page


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _sides(path: str, axes: dict[str, list[str]]) -> dict[str, str]:
    """Return which words stand beside the queries and the keys of an attention."""
    names = list(axes)
    if len(names) < 2:
        return {"queries": names[0] if names else "", "keys": names[0] if names else ""}
    source, target = names[:2]
    if path.startswith("encoder"):
        return {"queries": source, "keys": source}
    return {"queries": target, "keys": source if "cross" in path else target}


def _ids_in(frames: list[dict[str, Any]]) -> set[int]:
    """Return the ids that predictions, lenses and pushes name."""
    found: set[int] = set()

    def gather(value: Any) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                if name in ("top", "towards", "away"):
                    found.update(int(pair[0]) for pair in item)
                elif name == "target" and item:
                    found.add(int(item[0]))
                else:
                    gather(item)
        elif isinstance(value, list):
            for item in value:
                gather(item)

    gather(frames)
    return found


def _finite(value: Any) -> Any:
    """Return plain values with the names of numbers that JSON does not have: "NaN", "Infinity"."""
    if isinstance(value, dict):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float | np.floating):
        number = float(value)
        if math.isfinite(number):
            return number
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    return int(value) if isinstance(value, np.integer) else value
