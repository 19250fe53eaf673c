"""Arguments of generation: options given one by one, those of sampling gathered in one object."""

from dataclasses import fields
from typing import Any

from compyute_transformer.generation import Sampling

FIELDS = {field.name for field in fields(Sampling)}


def arguments(**options: Any) -> dict[str, Any]:
    """Return keyword arguments for `generate` and its like."""
    others = {name: value for name, value in options.items() if name not in FIELDS}
    return others | {"sampling": Sampling(**{name: options[name] for name in options.keys() & FIELDS})}
