"""The registry: one list of every op, with cases to verify it on.

An op is a pair of pure functions,

    NAME_forward(*inputs, **options) -> (y, saved)        NAME_backward(dy, saved) -> gradients

with one gradient for each differentiable argument, in the order of the forward's arguments, and None where the argument
was None. Differences, kernels, PyTorch parity, the documentation and the benchmarks are loops over `REGISTRY`:

    for op in REGISTRY.values():
        for case in op.cases:
            arguments = case.arguments(seed=0, dtype=numpy.float32)
            y, saved = op.forward(*arguments.values())
            gradients = op.gradients(cotangent(y), saved)      # {"x": dx, "weight": dweight, ...}
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..arrays import Array
from ..ops.activation import (
    gated_activation_backward,
    gated_activation_forward,
    gelu_backward,
    gelu_forward,
    relu_backward,
    relu_forward,
    silu_backward,
    silu_forward,
    softmax_backward,
    softmax_forward,
)
from ..ops.attention import (
    Mask,
    attention_backward,
    attention_forward,
    fused_attention_backward,
    fused_attention_forward,
)
from ..ops.dropout import dropout_backward, dropout_forward
from ..ops.embedding import (
    class_token_backward,
    class_token_forward,
    embedding_backward,
    embedding_forward,
    patch_embedding_backward,
    patch_embedding_forward,
)
from ..ops.linear import linear_backward, linear_forward
from ..ops.loss import cross_entropy_backward, cross_entropy_forward
from ..ops.multi_head import IMPLEMENTATIONS
from ..ops.norm import layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward
from ..ops.position import (
    learned_position_backward,
    learned_position_forward,
    sinusoidal_position_backward,
    sinusoidal_position_forward,
)
from ..ops.rotary import rotary_position_backward, rotary_position_forward
from . import cases as examples
from .cases import Arguments, added, everything, lengths, visible

__all__ = ["REGISTRY", "Case", "Op", "cast", "cotangent", "map_arrays"]


def map_arrays(function: Callable[[Array], Any], value: Any) -> Any:
    """The same structure with `function` of each array: through dicts, tuples, masks and what a forward saved."""
    if isinstance(value, Mapping):
        return {name: map_arrays(function, item) for name, item in value.items()}
    if isinstance(value, tuple):
        items = [map_arrays(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return function(value) if hasattr(value, "dtype") else value


def cast(value: Any, dtype: Any) -> Any:
    """The same structure with its floats as `dtype`; integers and booleans stay."""
    return map_arrays(lambda array: array.astype(dtype) if array.dtype.kind in "fV" else array, value)


def cotangent(y: Array, seed: int = 0) -> Array:
    """A random dy for a y on the CPU, drawn on its own: a dy that equals x hides gradients that are wrong elsewhere."""
    return np.asarray(np.random.default_rng([seed, 1]).normal(size=y.shape)).astype(y.dtype)


@dataclass(frozen=True)
class Case:
    """One example of a call. build: draws the arguments, in float64, from a generator of random numbers."""

    name: str
    build: Callable[[np.random.Generator], Arguments]

    def arguments(self, seed: int = 0, dtype: Any = np.float64) -> Arguments:
        """The arguments by name, in the forward's order: the same numbers for every dtype, rounded to it."""
        arguments: Arguments = cast(self.build(np.random.default_rng([seed, 0])), dtype)
        return arguments


@dataclass(frozen=True)
class Op:
    """A forward, its backward, and the cases they are verified on.

    differentiable: the arguments that have a gradient, in the order in which `backward` returns them.
    """

    name: str
    forward: Callable[..., tuple[Array, Any]]
    backward: Callable[[Array, Any], Any]
    differentiable: tuple[str, ...]
    cases: tuple[Case, ...]

    def gradients(self, dy: Array, saved: Any) -> dict[str, Array | None]:
        """What `backward` returns, by the name of the argument it is the gradient of."""
        return self.by_name(self.backward(dy, saved))

    def by_name(self, gradients: Any) -> dict[str, Array | None]:
        """Gradients as a backward returns them (one, or a tuple), by the names of their arguments."""
        several = gradients if isinstance(gradients, tuple) else (gradients,)
        return dict(zip(self.differentiable, several, strict=True))


def case(name: str, build: Callable[..., Arguments], **options: Any) -> Case:
    """A case that draws from one of the examples with these options."""
    return Case(name, partial(build, **options))


ATTENTION_CASES = (
    case("no_mask", examples.attention),
    case("more_queries_than_keys", examples.attention, T=7, S=5),
    case("causal", examples.attention, T=6, S=6, mask=Mask(causal=True)),
    case("causal_after_a_past", examples.attention, mask=Mask(causal=True)),
    case("causal_with_too_few_keys", examples.attention, T=7, S=5, mask=Mask(causal=True)),
    case("causal_window", examples.attention, mask=Mask(causal=True, window=3)),
    case("window", examples.attention, T=6, S=6, mask=Mask(window=2)),
    case("key_lengths", examples.attention, mask=lengths(5, 0)),
    case("causal_key_lengths", examples.attention, B=3, H=2, mask=lengths(7, 4, 1, causal=True)),
    case("boolean_matrix", examples.attention, mask=visible(5, 7)),
    case("boolean_of_each_row", examples.attention, mask=visible(2, 1, 1, 7)),
    case("boolean_of_each_head", examples.attention, mask=visible(2, 3, 5, 7)),
    case("added", examples.attention, mask=added(1, 3, 5, 7)),
    case("dropout", examples.attention, dropout=0.3),
    case("rare_dropout", examples.attention, dropout=0.001),
    case("grouped", examples.attention, H=6, K=3),
    case("multi_query_causal", examples.attention, K=1, mask=Mask(causal=True)),
    case("one_query_causal", examples.attention, T=1, mask=Mask(causal=True)),
    case("one_query_window", examples.attention, T=1, mask=Mask(causal=True, window=3)),
    case("everything", examples.attention, H=6, K=3, mask=everything, dropout=0.4),
    case("large", examples.attention, B=1, T=67, S=131, D=17, mask=Mask(causal=True)),
    case("large_window_dropout", examples.attention, B=1, T=67, S=131, D=17, mask=Mask(window=65), dropout=0.2),
)

MULTI_HEAD_CASES = (
    case("self", examples.multi_head),
    case("no_biases", examples.multi_head, in_bias=False, out_bias=False),
    case("one_bias", examples.multi_head, out_bias=False),
    case("cross", examples.multi_head, S=7),
    case("cross_no_biases", examples.multi_head, S=7, in_bias=False, out_bias=False),
    case("causal", examples.multi_head, mask=Mask(causal=True)),
    case("causal_window_dropout", examples.multi_head, mask=Mask(causal=True, window=3), dropout=0.3),
    case("cross_key_lengths_dropout", examples.multi_head, S=7, mask=lengths(7, 4), dropout=0.4),
    case("one_head_cross", examples.multi_head, H=1, S=7, D=12),
    case("one_column", examples.multi_head, C=1),
    case("boolean_matrix", examples.multi_head, mask=visible(5, 5)),
    case("boolean_of_each_head", examples.multi_head, mask=visible(2, 3, 5, 5)),
    case("boolean_of_each_row", examples.multi_head, S=7, mask=visible(2, 1, 5, 7)),
    case("added", examples.multi_head, mask=added(1, 3, 5, 5)),
    case("grouped", examples.multi_head, H=6, K=3, C=10),
    case("multi_query_key_lengths", examples.multi_head, K=1, S=7, C=10, mask=lengths(4, 0)),
    case("everything", examples.multi_head, H=6, K=3, S=7, C=10, mask=everything, dropout=0.3),
    case("large", examples.multi_head, T=67, S=131, C=35, D=17, mask=Mask(causal=True), dropout=0.1),
    case("one_query", examples.multi_head, T=1, S=7, mask=Mask(causal=True, window=3)),
)

OPS = (
    Op(
        "embedding",
        embedding_forward,
        embedding_backward,
        ("weight",),
        (
            case("repeated_ids", examples.embedding, rows=(3, 7)),
            case("one_axis", examples.embedding, rows=(9,)),
            case("large", examples.embedding, rows=(3, 131), V=67, C=33),
        ),
    ),
    Op(
        "patch_embedding",
        patch_embedding_forward,
        patch_embedding_backward,
        ("images", "weight", "bias"),
        (
            case("wide", examples.patch_embedding),
            case("high_no_bias", examples.patch_embedding, grid=(4, 1), bias=False),
            case("one_channel", examples.patch_embedding, P=2, channels=1, B=3),
            case("one_pixel", examples.patch_embedding, grid=(5, 4), P=1, channels=3),
            case("one_patch", examples.patch_embedding, grid=(1, 1), P=4, channels=3, B=1),
            case("large", examples.patch_embedding, grid=(5, 9), P=5, channels=3, C=33, B=3),
        ),
    ),
    Op(
        "class_token",
        class_token_forward,
        class_token_backward,
        ("x", "weight"),
        (
            case("batch", examples.class_token),
            case("one_image", examples.class_token, B=1, N=4),
            case("large", examples.class_token, B=5, N=65, C=33),
        ),
    ),
    Op(
        "learned_position",
        learned_position_forward,
        learned_position_backward,
        ("x", "weight"),
        (case("from_0", examples.learned_position, start=0), case("from_4", examples.learned_position, start=4)),
    ),
    Op(
        "sinusoidal_position",
        sinusoidal_position_forward,
        sinusoidal_position_backward,
        ("x",),
        (
            case("from_0", examples.sinusoidal_position, width=4, start=0),
            case("odd_width_from_9", examples.sinusoidal_position, width=5, start=9),
        ),
    ),
    Op(
        "rotary_position",
        rotary_position_forward,
        rotary_position_backward,
        ("x",),
        (
            case("halves", examples.rotary_position),
            case("interleaved", examples.rotary_position, interleaved=True),
            case("part_of_an_odd_width", examples.rotary_position, D=7, pairs=2),
            case("part_interleaved", examples.rotary_position, D=7, pairs=2, interleaved=True),
            case("one_position", examples.rotary_position, T=1, D=2, pairs=1),
            case("large", examples.rotary_position, T=67, D=35, pairs=17, B=3),
            case("large_interleaved", examples.rotary_position, T=67, D=35, pairs=17, B=3, interleaved=True),
        ),
    ),
    Op(
        "linear",
        linear_forward,
        linear_backward,
        ("x", "weight", "bias"),
        (
            case("one_row", examples.linear, rows=()),
            case("rows", examples.linear, rows=(7,)),
            case("batch", examples.linear, rows=(2, 3)),
            case("no_bias", examples.linear, rows=(2, 3), bias=False),
            case("large", examples.linear, rows=(3, 43), inputs=67, outputs=35),
        ),
    ),
    Op(
        "layer_norm",
        layer_norm_forward,
        layer_norm_backward,
        ("x", "weight", "bias"),
        (
            case("one_row", examples.layer_norm, rows=()),
            case("batch", examples.layer_norm, rows=(2, 3)),
            case("no_bias", examples.layer_norm, rows=(7,), bias=False),
            case("large_eps", examples.layer_norm, rows=(2, 3), eps=0.5),
            case("large", examples.layer_norm, rows=(3, 43), C=67),
        ),
    ),
    Op(
        "rms_norm",
        rms_norm_forward,
        rms_norm_backward,
        ("x", "weight"),
        (
            case("one_row", examples.rms_norm, rows=()),
            case("batch", examples.rms_norm, rows=(2, 3)),
            case("large_eps", examples.rms_norm, rows=(7,), eps=0.5),
            case("large", examples.rms_norm, rows=(3, 43), C=67),
        ),
    ),
    Op(
        "relu",
        relu_forward,
        relu_backward,
        ("x",),
        (
            case("vector", examples.relu, shape=(7,)),
            case("batch", examples.relu, shape=(2, 3, 5)),
            case("large", examples.relu, shape=(3, 43, 67)),
        ),
    ),
    Op(
        "gelu",
        gelu_forward,
        gelu_backward,
        ("x",),
        (
            case("tanh", examples.gelu, approximate="tanh"),
            case("exact", examples.gelu, approximate="none"),
            case("tanh_large", examples.gelu, approximate="tanh", shape=(3, 43, 67)),
            case("exact_large", examples.gelu, approximate="none", shape=(3, 43, 67)),
        ),
    ),
    Op(
        "silu",
        silu_forward,
        silu_backward,
        ("x",),
        (
            case("vector", examples.silu, shape=(7,)),
            case("batch", examples.silu, shape=(2, 3, 5)),
            case("large", examples.silu, shape=(3, 43, 67)),
        ),
    ),
    Op(
        "gated_activation",
        gated_activation_forward,
        gated_activation_backward,
        ("gate", "up"),
        (
            case("silu", examples.gated_activation, activation="silu"),
            case("gelu", examples.gated_activation, activation="gelu"),
            case("gelu_tanh", examples.gated_activation, activation="gelu_tanh"),
            case("silu_large", examples.gated_activation, activation="silu", shape=(3, 43, 67)),
            case("gelu_large", examples.gated_activation, activation="gelu", shape=(3, 43, 67)),
            case("gelu_tanh_large", examples.gated_activation, activation="gelu_tanh", shape=(3, 43, 67)),
        ),
    ),
    Op(
        "softmax",
        softmax_forward,
        softmax_backward,
        ("x",),
        (
            case("one_row", examples.softmax, rows=()),
            case("batch", examples.softmax, rows=(2, 3)),
            case("hidden", examples.softmax, rows=(3, 4), hidden=True),
            case("hidden_far_from_zero", examples.softmax, rows=(3, 4), hidden=True, mean=1000.0),
            case("large", examples.softmax, rows=(3, 43), C=67),
        ),
    ),
    Op(
        "dropout",
        dropout_forward,
        dropout_backward,
        ("x",),
        (
            case("rows", examples.dropout, shape=(3, 17), probability=0.3),
            case("heads", examples.dropout, shape=(2, 3, 4, 5), probability=0.5),
            case("nothing_dropped", examples.dropout, shape=(3, 5), probability=0.0),
            case("rarely", examples.dropout, shape=(3, 17), probability=0.001),
            case("large", examples.dropout, shape=(3, 43, 67), probability=0.1),
        ),
    ),
    Op("attention", attention_forward, attention_backward, ("q", "k", "v"), ATTENTION_CASES),
    Op("fused_attention", fused_attention_forward, fused_attention_backward, ("q", "k", "v"), ATTENTION_CASES),
    *(
        Op(
            f"{name}_multi_head",
            forward,
            backward,
            ("x", "memory", "in_weight", "in_bias", "out_weight", "out_bias"),
            MULTI_HEAD_CASES,
        )
        for name, (forward, backward) in IMPLEMENTATIONS.items()
    ),
    Op(
        "cross_entropy",
        cross_entropy_forward,
        cross_entropy_backward,
        ("logits",),
        (
            case("one_row", examples.cross_entropy, rows=()),
            case("batch", examples.cross_entropy, rows=(2, 3)),
            case("ignored", examples.cross_entropy, rows=(2, 5), ignored=3),
            case("smoothed", examples.cross_entropy, rows=(2, 5), label_smoothing=0.1),
            case(
                "ignored_class_smoothed",
                examples.cross_entropy,
                rows=(9,),
                ignored=4,
                ignore_index=2,
                label_smoothing=0.3,
            ),
            case("large_logits", examples.cross_entropy, rows=(2, 3), scale=30.0),
            case("large", examples.cross_entropy, rows=(3, 43), V=131, ignored=5, label_smoothing=0.1),
        ),
    ),
)

REGISTRY: dict[str, Op] = {op.name: op for op in OPS}
