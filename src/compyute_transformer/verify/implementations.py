"""The ways to build multi-head attention beside each other: outputs, attention weights and every gradient.

All four read the same parameters, masks and dropped elements, so they must agree to rounding, whatever the case.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from ..ops.attention import AttentionSaved, FusedAttentionSaved, fused_attention_weights
from ..ops.multi_head import IMPLEMENTATIONS, attention_weights
from .registry import REGISTRY, Case, Op, cotangent
from .result import Label, Result, Task, attempt, from_errors, gradient_errors, relative_error

__all__ = ["compare_implementations", "tasks"]

FAMILIES = {
    "attention.heads": ("attention", "fused_attention"),
    "attention.multi_head": tuple(f"{name}_multi_head" for name in IMPLEMENTATIONS),
}


def tasks(seed: int) -> Iterator[Task]:
    """One check for each family: the two attentions on heads, the four on whole inputs."""
    for name in FAMILIES:
        yield Task(name, ("implementations",), partial(check_family, name, seed))


def check_family(name: str, seed: int) -> Iterator[Result]:
    """All members of a family on all cases, in both dtypes."""
    for case in REGISTRY[FAMILIES[name][0]].cases:
        for dtype in (np.float64, np.float32):
            label = Label(name, case.name)
            check = partial(compare_implementations, label, case, dtype, seed)
            yield from attempt(label, "implementations", dtype, check)


def compare_implementations(label: Label, case: Case, dtype: Any, seed: int) -> Iterator[Result]:
    """The first of a family beside each of the others."""
    first, *others = (REGISTRY[name] for name in FAMILIES[label.name])
    expected = results(first, case, dtype, seed)
    for op in others:
        found = results(op, case, dtype, seed)
        errors = {name: relative_error(found[0][name], expected[0][name]) for name in found[0]}
        gradients = dict(gradient_errors(found[1], expected[1]))
        yield from from_errors(errors | gradients, label, "implementations", dtype, f"{op.name} beside {first.name}")


def results(op: Op, case: Case, dtype: Any, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The output and the attention weights; the gradients."""
    y, saved = op.forward(*case.arguments(seed, dtype).values())
    if isinstance(saved, AttentionSaved):
        weights = saved.weights
    elif isinstance(saved, FusedAttentionSaved):
        weights = fused_attention_weights(saved)
    else:
        weights = attention_weights(saved)
    return {"y": y, "weights": weights}, op.gradients(cotangent(y, seed), saved)
