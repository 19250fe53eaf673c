"""Outputs beside the logits, on request: attention weights and hidden states of any model.

    output = model(ids, return_attention=True, return_hidden_states=True)
    output.logits, output.attentions, output.hidden_states

The forward itself knows nothing of it: an observer records what the blocks return, and asks each attention for its
weights. An attention that replaces the library's own answers too if it defines

    def forward_with_weights(self, x, memory=None, mask=NO_MASK): ...    # the output, and the weights (B, H, T, S)

and is refused if it does not, since the weights of the class it derives from would not be those that it used.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Self

from ..arrays import Array
from ..errors import ConfigError
from ..nn import Module, ModuleList, MultiHeadAttention, Observer, evaluating, observe

__all__ = ["Model", "ModelOutput", "record_forward"]


class ModelOutput(NamedTuple):
    """The logits of a forward, and what else was asked for.

    attentions: the weights (B, H, T, S) of each attention, before dropout, in the order in which they run. In a row of
    queries they sum to one, and a masked key has exactly 0. hidden_states: the residual stream (B, T, C) before the
    first block and after each block; of a Transformer those of the encoder, then those of the decoder.
    """

    logits: Array
    attentions: tuple[Array, ...] | None = None
    hidden_states: tuple[Array, ...] | None = None


class Model(Module):
    """The base of all models: a call runs `forward`, and returns a `ModelOutput` when more than logits is asked for.

    training_length: the positions of a window in training and evaluation, where they are fewer than the context.
    """

    training_length: int | None = None

    def __call__(
        self, *inputs: Any, return_attention: bool = False, return_hidden_states: bool = False, **options: Any
    ) -> Any:
        """Return the result of `forward`, or a `ModelOutput`.

        Raises ConfigError for return_attention with a cache, and for an attention that does not tell its weights.
        """
        if not (return_attention or return_hidden_states):
            return super().__call__(*inputs, **options)
        if return_attention and any(hasattr(value, "advance") for value in (*inputs, options.get("cache"))):
            raise ConfigError(
                f"{type(self).__name__}: return_attention is supported without a cache, got both. "
                "Run the model on all ids at once."
            )
        logits, recorder = record_forward(self, return_attention, *inputs, **options)
        return ModelOutput(
            logits,
            tuple(recorder.attentions.values()) if return_attention else None,
            tuple(recorder.hidden_states) if return_hidden_states else None,
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, dtype: Any = None, **options: Any) -> Self:
        """Return the model of a Hugging Face directory, in `eval()`; see `exchange.load_pretrained`."""
        # loaded on use, by name: exchange is built on models, and models work without it
        model: Self = import_module("compyute_transformer.exchange").load_pretrained(
            folder, cls, dtype=dtype, **options
        )
        return model

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write a directory that Hugging Face Transformers opens; see `exchange.save_pretrained`."""
        import_module("compyute_transformer.exchange").save_pretrained(self, folder, **options)

    def summary(self, depth: int = 1) -> Any:
        """Return parameters, bytes, floating-point operations and memory kept for the backward, a line a layer.

        depth: 1 for a line a block, 2 for its attention, norms and feed-forward. Print the result, or see
        `models.summary.Summary`.
        """
        summary = import_module("compyute_transformer.models.summary")  # which reads the registry of all models
        return summary.summarize(self, depth)


class Recorder(Observer):
    """Records the streams between the blocks of a model, and on request the weights of its attentions by path."""

    def __init__(self, model: Module, with_attention: bool) -> None:
        stacks = [child for child in model._modules.values() if isinstance(child, ModuleList)]
        self._blocks = {id(block) for stack in stacks for block in stack}
        self._first = {id(next(iter(stack))) for stack in stacks if len(stack)}
        self._with_attention = with_attention
        self.attentions: dict[str, Array] = {}
        self.hidden_states: list[Array] = []

    def before(
        self, path: str, module: Module, phase: Any, inputs: tuple[Any, ...], keywords: dict[str, Any] | None = None
    ) -> None:
        """Record the stream before the first block."""
        if phase == "forward" and id(module) in self._first:
            self.hidden_states.append(inputs[0])

    def after(
        self,
        path: str,
        module: Module,
        phase: Any,
        inputs: tuple[Any, ...],
        output: Any,
        keywords: dict[str, Any] | None = None,
    ) -> None:
        """Record the stream after a block, or the weights of an attention."""
        if phase != "forward":
            return
        if id(module) in self._blocks:
            self.hidden_states.append(output)
        if self._with_attention and is_attention(path, module):
            self.attentions[path] = weights_of(path, module, inputs[:3])


def record_forward(model: Module, with_attention: bool, *inputs: Any, **options: Any) -> tuple[Array, Recorder]:
    """Run the forward of a model under a `Recorder`. Return its result and the recorder."""
    recorder = Recorder(model, with_attention)
    with observe(model, recorder):
        logits: Array = model.forward(*inputs, **options)
    for path, module in model.named_modules() if with_attention else ():
        if is_attention(path, module) and path not in recorder.attentions:
            raise unknown_weights(path, module)  # its forward was replaced by one that no observer sees
    return logits, recorder


def is_attention(path: str, module: Module) -> bool:
    """Return whether a module is an attention: the library's own, or what stands in its place in a block."""
    return isinstance(module, MultiHeadAttention) or path.rpartition(".")[2] in ("attention", "cross_attention")


def weights_of(path: str, module: Any, inputs: tuple[Any, ...]) -> Array:
    """Return the attention weights of a module for its inputs; nothing is saved and nothing dropped."""
    owner = {name: _owner(type(module), name) for name in ("forward", "forward_with_weights")}
    if owner["forward_with_weights"] is None or _derives(owner["forward"], owner["forward_with_weights"]):
        raise unknown_weights(path, module)
    with evaluating():
        weights: Array = module.forward_with_weights(*inputs)[1]
    return weights


def unknown_weights(path: str, module: Module) -> ConfigError:
    """Return the error for an attention whose weights are not known."""
    return ConfigError(
        f"return_attention: {path} is a {type(module).__name__} with a forward of its own, and the weights it uses are "
        "not known. Define forward_with_weights(x, memory, mask) in its class, which returns the output and the "
        "weights (B, H, T, S)."
    )


def _owner(kind: type, name: str) -> type | None:
    """Return the class that defines a method of a class, which may be a class that it derives from."""
    return next((base for base in kind.__mro__ if name in base.__dict__), None)


def _derives(first: type | None, second: type | None) -> bool:
    """Return whether the first class is a strict subclass of the second."""
    return first is not None and second is not None and first is not second and issubclass(first, second)
