"""Who looked at whom: the attention weights of every block and head, as arrays and as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array, to_device, to_numpy
from ..data.pairs.batches import special_tokens
from ..data.text.tokenizer import Tokenizer
from ..errors import MissingExtraError, RangeError, ShapeError
from ..models.language import LanguageModel
from ..models.transformer import Transformer
from ..nn.attention import MultiHeadAttention
from ..nn.module import Module, Observer, Phase, observe
from .decode import evaluating
from .text import start_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "attention_maps",
    "draw_attention",
    "draw_prompt",
    "draw_translation",
    "named_attention_maps",
    "save_picture",
    "token_labels",
]

MOST_LABELS = 32  # more tokens than this are numbered, not written out
LONGEST_LABEL = 12
INK, FAINT, HIDDEN = "#1b2a41", "#8a94a6", "#eef0f4"
COLORS = ["#ffffff", "#cfe3f5", "#7fb6e6", "#2f7fc9", "#123f7a", "#0b1f3f"]  # from no weight to all of it
WHITESPACE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def attention_maps(model: Module, *inputs: Array | None) -> list[Array]:
    """How much of each query's attention, of T, went to each key, of S: one array (B, H, T, S) an attention.

    inputs: those of the model's forward; for a language model ids (B, T), T at most context_length, and S = T. The row
    of a query sums to one, and a key that is hidden has exactly 0. From any model and any implementation, in the order
    in which its attentions run; nothing is dropped, whatever mode the model is in.

    Raises as the model's forward.
    """
    return list(named_attention_maps(model, *inputs).values())


def named_attention_maps(model: Module, *inputs: Array | None) -> dict[str, Array]:
    """`attention_maps`, each by the path of its attention: "blocks.0.attention", "decoder.1.cross_attention"."""
    watch = _Watch()
    with evaluating(model), observe(model, watch):
        model(*inputs)
    return watch.maps


class _Watch(Observer):
    """Computes the weights of each attention that runs, from what it was given."""

    def __init__(self) -> None:
        self.maps: dict[str, Array] = {}

    def after(self, path: str, module: Module, phase: Phase, inputs: tuple[Any, ...], output: Any, *_: Any) -> None:
        if isinstance(module, MultiHeadAttention):
            self.maps[path] = module.forward_with_weights(*inputs[:3])[1]


def token_labels(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """What each token stands for, short enough for an axis: whitespace is made visible, long tokens are cut."""
    texts = ("".join(WHITESPACE.get(c, c) for c in tokenizer.decode([token])) for token in ids)
    return [text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…" for text in texts]


def draw_attention(
    maps: Sequence[Array],
    labels: Sequence[str] | None = None,
    row: int = 0,
    query_labels: Sequence[str] | None = None,
) -> "Figure":
    """A picture of attention maps: a row of panels a block, a column a head; in each a row a query, a column a key.

    The darker, the more attention; gray is what a query may not see. The scale is that of the square root, so that
    small weights show too.

    maps: of `attention_maps`, all of one shape. labels: one a token, see `token_labels`; up to 32 are written along an
    axis. row: which of the batch. query_labels: those of the queries, where they are tokens of another text than the
    keys; None: the same labels.

    Raises MissingExtraError without Matplotlib, ShapeError for maps of several shapes and labels of another number.
    """
    figure_class = _matplotlib("figure").Figure
    colors, ticker = _matplotlib("colors"), _matplotlib("ticker")
    weights = [to_numpy(array)[row] for array in maps]
    if len({array.shape for array in weights}) != 1:
        raise ShapeError(
            "draw_attention: the maps of one picture have one shape (B, H, T, S), got "
            f"{', '.join(str(tuple(array.shape)) for array in maps) or 'none'}. Draw those that look from one text "
            "into another apart, see named_attention_maps."
        )
    blocks, (heads, T, S) = len(weights), weights[0].shape
    columns, rows = _written(labels, S), _written(labels if query_labels is None else query_labels, T)
    width, height = (
        min(max(1.7, 0.135 * length) if texts else 2.0, 60 / max(blocks, heads))  # of a panel, in inches
        for texts, length in ((columns, S), (rows, T))
    )
    figure: Figure = figure_class(
        figsize=(heads * width + 1.6, blocks * height + 1.3), layout="compressed", facecolor="white"
    )
    panels: Any = figure.subplots(blocks, heads, squeeze=False, sharex=True, sharey=True)
    color_map = colors.LinearSegmentedColormap.from_list("attention", COLORS).with_extremes(bad=HIDDEN)
    scale = colors.PowerNorm(0.5, vmin=0.0, vmax=1.0)
    for block, head in np.ndindex(blocks, heads):
        panel = panels[block, head]
        hidden = ~weights[block].any(axis=0)  # where no head looked, none may
        visible = np.ma.masked_array(weights[block][head].astype(np.float64), hidden)
        image = panel.imshow(visible, cmap=color_map, norm=scale, interpolation="nearest", aspect="equal")
        panel.tick_params(labelsize=7, color=FAINT, labelcolor=INK, pad=2)
        panel.spines[:].set(color=FAINT, linewidth=0.5)
        if block == 0:
            panel.set_title(f"head {head}", fontsize=9, color=INK)
        if head == 0:
            panel.set_ylabel(f"block {block}", fontsize=9, color=INK)
    for axis, texts in (("x", columns), ("y", rows)):
        first = getattr(panels[0, 0], f"{axis}axis")  # the panels share ticks
        if texts:
            first.set_ticks(range(len(texts)), texts, parse_math=False)
        else:
            first.set_major_locator(ticker.MaxNLocator(4, integer=True))
        for panel in panels.flat:
            panel.tick_params(axis=axis, length=0 if texts else 2)
    if columns and max(map(len, columns)) > 2:
        for panel in panels[-1]:  # each bottom one has texts of its own
            panel.tick_params(axis="x", labelrotation=90)
    figure.supxlabel("looked at", fontsize=9, color=FAINT)
    figure.supylabel("who looked", fontsize=9, color=FAINT)
    shrink = min(1.0, 3.0 / (blocks * height))
    bar = figure.colorbar(image, ax=panels, ticks=[0, 0.05, 0.2, 0.5, 1], shrink=shrink, aspect=25)
    bar.set_label("attention weight", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, length=2, color=FAINT, labelcolor=INK)
    bar.outline.set(edgecolor=FAINT, linewidth=0.5)
    return figure


def draw_prompt(model: LanguageModel, tokenizer: Tokenizer, prompt: str, path: Path) -> None:
    """Draw the attention of a prompt, of its last context_length tokens, into a file.

    Raises as `start_of`, `draw_attention` and `save_picture`.
    """
    ids = start_of(tokenizer, prompt)[-model.config.context_length :]
    maps = attention_maps(model, to_device(np.array([ids], np.int32), model.device))
    save_picture(draw_attention(maps, token_labels(tokenizer, ids)), path)


def draw_translation(
    model: Transformer, tokenizer: Tokenizer, source: str, answer: Sequence[int], path: Path
) -> list[Path]:
    """Draw who looks at whom in a translation: within the source, within the answer, and from the answer at the source.

    answer: its ids, as many as the context has room for behind BEGIN. Three files are written and returned, beside
    `path` as it were: NAME-encoder.png, NAME-decoder.png and NAME-cross.png. Raises as `named_attention_maps` and
    `save_picture`.
    """
    special, known = special_tokens(tokenizer), tokenizer.encode(source).tolist()
    said = list(answer)[: model.config.context_length - 1]
    ids = (
        to_device(np.array([row], np.int32), model.device) for row in ([*known, special.end], [special.begin, *said])
    )
    maps = named_attention_maps(model, *ids)
    sources = [*token_labels(tokenizer, known), "END"]
    answers = ["BEGIN", *token_labels(tokenizer, said)]
    parts = {
        "encoder": ("encoder.", ".attention", sources, sources),
        "decoder": ("decoder.", ".attention", answers, answers),
        "cross": ("decoder.", ".cross_attention", sources, answers),
    }
    files = []
    for name, (start, end, keys, queries) in parts.items():
        chosen = [array for place, array in maps.items() if place.startswith(start) and place.endswith(end)]
        files.append(path.with_name(f"{path.stem}-{name}{path.suffix}"))
        save_picture(draw_attention(chosen, keys, query_labels=queries), files[-1])
    return files


def save_picture(figure: "Figure", path: Path) -> None:
    """Write a figure to a file, in the format that its ending names: .png, .svg, .pdf and others.

    Raises RangeError for an ending that names none or a folder that is not there, OSError where the file cannot be
    written.
    """
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise RangeError(
            f"save_picture: the file's ending names its format, one of {', '.join(sorted(known))}, got {str(path)!r}."
        )
    if not path.parent.is_dir():
        raise RangeError(
            f"save_picture: a picture is put into a folder that is there, got {str(path)!r}. Make it first."
        )
    figure.savefig(path, dpi=150, bbox_inches="tight")


def _written(labels: Sequence[str] | None, length: int) -> list[str] | None:
    """The labels of an axis as they are written; None where there are none, or too many."""
    if labels is not None and len(labels) != length:
        raise ShapeError(f"draw_attention: one label a token, got {len(labels)} labels for {length} tokens.")
    return [_drawable(label) for label in labels] if labels is not None and length <= MOST_LABELS else None


def _drawable(label: str) -> str:
    """A label in characters that Matplotlib's own font has; the others by their numbers."""
    known = _matplotlib("font_manager").get_font(_matplotlib("font_manager").findfont("DejaVu Sans")).get_charmap()
    return "".join(c if ord(c) in known else f"U+{ord(c):04X}" for c in label)


def _matplotlib(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"matplotlib.{module}")
    except ImportError as error:
        raise MissingExtraError(
            "draw_attention: a picture needs Matplotlib, which is not installed. "
            "pip install 'compyute-transformer[pictures]'; attention_maps gives the numbers without it."
        ) from error
