"""Arguments: a call that does not fit a signature is refused in one sentence, with our name for that of others."""

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from typing import Any, Self, Unpack, get_args, get_origin

from .errors import ArgumentError

__all__ = ["CheckedArguments", "check_call"]

# What other libraries, and earlier versions of this one, call an argument of ours.
OTHER_NAMES = {
    **dict.fromkeys(("n_embd", "n_embed", "d_model", "hidden_size", "embedding_dim", "dim_model"), "embed_dim"),
    **dict.fromkeys(("n_head", "n_heads", "nhead", "heads", "num_attention_heads"), "num_heads"),
    **dict.fromkeys(("n_layer", "n_layers", "depth", "num_hidden_layers"), "num_layers"),
    **dict.fromkeys(("n_kv_head", "n_kv_heads", "num_key_value_heads"), "num_kv_heads"),
    **dict.fromkeys(("block_size", "n_positions", "max_position_embeddings", "max_seq_len"), "context_length"),
    **dict.fromkeys(("dim_feedforward", "intermediate_size", "n_inner", "d_ff", "hidden_dim"), "mlp_dim"),
    **dict.fromkeys(("tie_head", "tie_weights"), "tie_word_embeddings"),
    **dict.fromkeys(("foreach", "fused", "capturable", "differentiable"), "none: every step is one sweep"),
    "attention": "attn_implementation",
    "attn_mask": "mask=Mask(array=...)",
    "batch_first": "none: the batch is the first axis",
    "dim": "the last axis",
    "dropout_p": "dropout",
    "elementwise_affine": "none: the norm has a weight",
    "in_dim": "in_features",
    "input": "x",
    "is_causal": "mask=Mask(causal=True)",
    "key_padding_mask": "mask=Mask(key_lengths=...)",
    "learning_rate": "lr",
    "n_vocab": "vocab_size",
    "normalized_shape": "dim",
    "out_dim": "out_features",
    "p": "probability",
    "reduction": "none: the loss is the mean over the rows that are scored",
}


class CheckedArguments:
    """The base of classes that refuse arguments their `__init__` does not have, with our names for those of others."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Check the arguments; a copy or a pickle gives none."""
        if args or kwargs:
            check_call(cls.__name__, cls.__init__, (None, *args), kwargs, skip=1)
        return super().__new__(cls)


def check_call(
    name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], skip: int = 0
) -> None:
    """Raise an ArgumentError if a call does not fit the signature of a function.

    name: of the operation in the message. skip: how many of the first parameters, such as self, the message leaves out.
    """
    expected = _spread(signature(function))
    try:
        expected.bind(*args, **kwargs)
    except TypeError as error:
        names = list(expected.parameters)[skip:]
        ours = {other: OTHER_NAMES[other] for other in kwargs if other not in names and other in OTHER_NAMES}
        told = {other: own for other, own in ours.items() if own in names or not own.isidentifier()}
        hint = "".join(f" Ours for {other} is {own}." for other, own in told.items())
        raise ArgumentError(
            f"{name}: the arguments are {', '.join(names)}, but the call does not fit: {error}.{hint}"
        ) from None


def _spread(found: Signature) -> Signature:
    """Return a signature with a parameter for each keyword of its `**options: Unpack[...]`, if it has such."""
    parameters = list(found.parameters.values())
    if not parameters or get_origin(parameters[-1].annotation) is not Unpack:
        return found
    (options,) = get_args(parameters.pop().annotation)
    more = [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in options.__annotations__]
    return found.replace(parameters=parameters + more)
