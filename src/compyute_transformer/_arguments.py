"""Arguments: a call that does not fit a signature is refused in one sentence, with our name for that of others.

So is an attribute that is not there.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any, Self, Unpack, get_args, get_origin

from .errors import ArgumentError

__all__ = ["CheckedArguments", "check_call", "hint_of"]

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
    **dict.fromkeys(("use_cache", "past_key_values"), "cache=generation.KeyValueCache(model)"),
    "attention": "attn_implementation",
    "attention_mask": "none: in generation padding=..., of a Bert lengths=...",
    "attn_mask": "mask=Mask(array=...)",
    "batch_first": "none: the batch is the first axis",
    "device_map": "none: model.to(device) moves it",
    "dim": "the last axis",
    "dropout_p": "dropout",
    "elementwise_affine": "none: the norm has a weight",
    "in_dim": "in_features",
    "input": "x",
    "input_ids": "ids",
    "is_causal": "mask=Mask(causal=True)",
    "labels": "none: nn.CrossEntropyLoss()(model(ids), targets) is the loss",
    "key_padding_mask": "mask=Mask(key_lengths=...)",
    "learning_rate": "lr",
    "load_in_8bit": "weights='int8'",
    "low_cpu_mem_usage": "none: files are mapped, not copied",
    "n_vocab": "vocab_size",
    "normalized_shape": "dim",
    "out_dim": "out_features",
    "output_attentions": "return_attention=True",
    "output_hidden_states": "return_hidden_states=True",
    "p": "probability",
    "pixel_values": "images",
    "reduction": "none: the loss is the mean over the rows that are scored",
    "token_type_ids": "token_types",
    "torch_dtype": "dtype=numpy.float32, or weights='bfloat16'",
    "trust_remote_code": "none: no code of a model is run",
}
# The same of attributes and methods.
OTHER_ATTRIBUTES = {
    **dict.fromkeys(
        ("half", "bfloat16"),
        'model.precision = "bfloat16" for products, nn.quantize_weights(model, "bfloat16") for weights',
    ),
    **dict.fromkeys(("named_buffers", "buffers", "register_buffer"), "a plain array, assigned to a name"),
    **dict.fromkeys(("register_forward_hook", "register_full_backward_hook"), "with nn.observe(model, Observer())"),
    **dict.fromkeys(("get_input_embeddings", "resize_token_embeddings"), "token_embedding, an Embedding"),
    "add_module": "an assignment to a name",
    "cpu": 'to("cpu")',
    "cuda": 'to("cuda")',
    "double": "to(numpy.float64)",
    "float": "to(numpy.float32)",
    "get_submodule": "dict(model.named_modules())[path]",
    "gradient_checkpointing_enable": "nn.recompute_blocks",
    "push_to_hub": "save_pretrained(DIR), and huggingface_hub",
    "register_parameter": "an assignment to a name",
}


class CheckedArguments:
    """The base of classes that refuse arguments their `__init__` does not have, with our names for those of others."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Check the arguments; a copy or a pickle gives none."""
        if args or kwargs:
            check_call(cls.__name__, cls.__init__, (None, *args), kwargs, skip=1)
        return super().__new__(cls)

    if not TYPE_CHECKING:  # for whom every attribute would else be there

        def __getattr__(self, name: str) -> Any:
            """Raise an AttributeError with our name for that of others."""
            if hasattr(type(self), name):  # a property, whose own error says more
                return object.__getattribute__(self, name)
            ours = OTHER_NAMES.get(name, "")
            ours = ours if ours and hasattr(self, ours) else OTHER_ATTRIBUTES.get(name, "")
            hint = f". Ours is {ours}." if ours else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}", name=name, obj=self)


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
        raise ArgumentError(
            f"{name}: the arguments are {', '.join(names)}, but the call does not fit: {error}.{hint_of(kwargs, names)}"
        ) from None


def hint_of(given: Iterable[str], names: Collection[str]) -> str:
    """Return sentences with our names for given ones that are not among `names`; "" where we have none."""
    ours = {other: OTHER_NAMES[other] for other in given if other not in names and other in OTHER_NAMES}
    told = {other: own for other, own in ours.items() if own in names or not own.isidentifier()}
    return "".join(f" Ours for {other} is {own}." for other, own in told.items())


def _spread(found: Signature) -> Signature:
    """Return a signature with a parameter for each keyword of its `**options: Unpack[...]`, if it has such."""
    parameters = list(found.parameters.values())
    if not parameters or get_origin(parameters[-1].annotation) is not Unpack:
        return found
    (options,) = get_args(parameters.pop().annotation)
    more = [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in options.__annotations__]
    return found.replace(parameters=parameters + more)
