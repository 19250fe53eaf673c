"""A model by its path on the command line: a run's folder, a directory of Hugging Face Transformers, or a GGUF file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ..arrays import Device

__all__ = [
    "Draft",
    "ModelPath",
    "OpenedModel",
    "kind_of_weights",
    "open_draft",
    "open_model",
    "products_of",
]

ModelPath = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder of a run, such as runs/nano; a directory of Hugging Face Transformers; a .gguf file; or "
        "the name of an installed package that holds one of them.",
    ),
]

Draft = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="A smaller model with the same tokenizer, which guesses tokens ahead: the text is the same, and comes "
        "sooner where many guesses are right.",
    ),
]


@dataclass(frozen=True)
class OpenedModel:
    """A model that is ready to use. kind: what it learned. step: of its checkpoint; None where it is not from a run.

    encode: from a prompt to what generation takes. defaults: the options of `Sampling` that its makers chose.
    """

    model: Any
    tokenizer: Any
    kind: str
    step: int | None = None
    encode: Callable[[str], Any] = str
    defaults: Any = None
    stop_ids: Sequence[int] = ()
    ignored: Sequence[str] = ()

    @property
    def origin(self) -> str:
        """What a note says of where the weights are from."""
        return "" if self.step is None else f", step {self.step}"


def kind_of_weights(weights: str, device: Device) -> Any:
    """Return what `Pretrained` and `quantize_weights` take for --weights; None for float32."""
    if weights != "float32" and device != "cpu":
        raise typer.BadParameter(f"--weights {weights} is for --device cpu.")
    return None if weights == "float32" else weights


def products_of(precision: str, device: Device) -> Any:
    """Return the precision that an option names. Refuse one that the device does not have."""
    from ..environment.products import fastest_precision

    if precision == "tf32" and device == "cpu":
        raise typer.BadParameter(
            "--precision tf32 is of the tensor cores of a GPU; on a CPU choose float32 or bfloat16."
        )
    return fastest_precision(device) if precision == "auto" else precision


def open_model(path: str, checkpoint: Any = "best", device: Device = "cpu", weights: str = "float32") -> OpenedModel:
    """Return the model that a path names. Raises what `load_run` and `Pretrained` raise."""
    from ..exchange import Pretrained, is_pretrained, merge_lora, model_path
    from ..nn.quantize import quantize_weights
    from ..training import load_run

    held = kind_of_weights(weights, device)

    if not is_pretrained(model_path(path)):
        run = load_run(path, checkpoint, device)
        run.model.precision = None  # float32: as exact, and the fused decoder is faster
        kind, model = run.settings.data.kind, merge_lora(run.model)
        if held is not None:
            quantize_weights(model, held)
        return OpenedModel(model, None if kind == "images" else run.tokenizer, kind, run.step)
    if checkpoint != "best":
        raise typer.BadParameter(f"--checkpoint chooses between those of a run, and {path} is none.")
    opened = Pretrained(path, weights=held)
    model = opened.model.to(device)
    from ..models.registry import record_of

    kind = record_of(model).task
    if kind != "language":
        return OpenedModel(model, None, kind)
    found = opened.defaults
    return OpenedModel(
        model, opened.tokenizer, kind, None, opened.encode, found.sampling, found.stop_ids, found.ignored
    )


def open_draft(path: str, model: Any, tokenizer: Any, device: Device = "cpu") -> Any:
    """Return the model that a path of --draft names. Refuses one that has other tokens than the model."""
    opened = open_model(path, "best", device)
    if opened.kind != "language":
        raise typer.BadParameter(f"--draft is a language model, and {path} learned {opened.kind}.")
    theirs = opened.tokenizer
    if opened.model.config.vocab_size != model.config.vocab_size or not has_tokens_of(tokenizer, theirs):
        raise typer.BadParameter(
            f"--draft guesses tokens of the model, and {path} has others. Give a smaller model with the same tokenizer."
        )
    return opened.model


def has_tokens_of(tokenizer: Any, other: Any) -> bool:
    """Return whether two tokenizers give the same text to every id."""
    if tokenizer.vocab_size != other.vocab_size:
        return False
    return all(tokenizer.decode([i]) == other.decode([i]) for i in range(tokenizer.vocab_size))
