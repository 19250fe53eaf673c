"""The check that every configuration of a model makes once, when it is created."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, get_args

from ..errors import ConfigError
from ..nn.attention import Implementation
from ..nn.feed_forward import Activation
from ..ops.attention import HIGHEST_CAP, LOWEST_CAP

__all__ = ["check_config"]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_config(config: Any, sizes: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Raise for a configuration that no model can have.

    sizes: the fields that are whole numbers of at least 1. optional: those that may be None as well. Every
    configuration also has embed_dim, num_heads, dropout and attn_implementation, and may have num_kv_heads, head_dim,
    activation and soft_cap.

    Raises ConfigError with the names of the configuration and of the field, and the value.
    """
    name = type(config).__name__
    for field in sizes:
        value = getattr(config, field)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name}: {field} is a whole number of at least 1, got {value!r}.")
    for field in optional:
        value = getattr(config, field)
        if value is not None and (not isinstance(value, Integral) or isinstance(value, bool) or value < 1):
            raise ConfigError(
                f"{name}: {field} is a whole number of at least 1, or None for its default, got {value!r}."
            )
    num_kv_heads = getattr(config, "num_kv_heads", None)
    own_width = getattr(config, "head_dim", None) is not None
    if (config.embed_dim % config.num_heads and not own_width) or config.num_heads % (num_kv_heads or config.num_heads):
        raise ConfigError(
            f"{name}: num_heads must divide embed_dim, and num_kv_heads num_heads, got "
            f"embed_dim {config.embed_dim}, num_heads {config.num_heads}, num_kv_heads {num_kv_heads}."
        )
    soft_cap = getattr(config, "soft_cap", None)
    if soft_cap is not None and not (_is_number(soft_cap) and LOWEST_CAP <= soft_cap < HIGHEST_CAP):
        raise ConfigError(
            f"{name}: soft_cap lies in [{LOWEST_CAP:g}, {HIGHEST_CAP:g}), or is None for no cap, got {soft_cap!r}."
        )
    if not isinstance(config.dropout, (int, float)) or not 0.0 <= config.dropout < 1.0:
        raise ConfigError(f"{name}: dropout lies in [0, 1), got {config.dropout!r}.")
    for field, choices in (("activation", get_args(Activation)), ("attn_implementation", get_args(Implementation))):
        if getattr(config, field, choices[0]) not in choices:
            raise ConfigError(f"{name}: {field} is one of {', '.join(choices)}, got {getattr(config, field)!r}.")
