"""Registry: the records of all ops and of all modules.

Verification, the documentation and the benchmarks are loops over `REGISTRY` and `MODULES`:

    for op in REGISTRY.values():
        for case in op.cases:
            arguments = case.arguments(seed=0, dtype=numpy.float32)
            y, saved = op.forward(*arguments.values())
            gradients = op.gradients(cotangent(y), saved)      # {"x": dx, "weight": dweight, ...}
"""

from .record import Case, ModuleCase, Op, cast, cotangent, map_arrays
from .records import (
    activation,
    attention,
    block,
    dropout,
    embedding,
    feed_forward,
    linear,
    lora,
    loss,
    multi_head,
    norm,
    position,
    rotary,
)

__all__ = ["MODULES", "REGISTRY", "Case", "Op", "cast", "cotangent", "map_arrays"]

OPS = (
    *embedding.OPS,
    *position.OPS,
    *rotary.OPS,
    *linear.OPS,
    *lora.OPS,
    *norm.OPS,
    *activation.OPS,
    *dropout.OPS,
    *attention.OPS,
    *multi_head.OPS,
    *loss.OPS,
)
REGISTRY: dict[str, Op] = {op.name: op for op in OPS}
MODULES: tuple[ModuleCase, ...] = (
    *embedding.MODULES,
    *position.MODULES,
    *rotary.MODULES,
    *linear.MODULES,
    *lora.MODULES,
    *norm.MODULES,
    *dropout.MODULES,
    *feed_forward.MODULES,
    *multi_head.MODULES,
    *block.MODULES,
)
