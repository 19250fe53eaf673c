"""Gradients become new weights: optimizers over flat buffers, schedules, clipping."""

from .adamw import AdamW
from .clip import clip_by_global_norm
from .schedule import Schedule
from .sgd import SGD

__all__ = ["SGD", "AdamW", "Schedule", "clip_by_global_norm"]
