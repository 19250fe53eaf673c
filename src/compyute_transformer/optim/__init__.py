"""Optimizers turn gradients into new weights; schedules set the learning rate; clipping limits the gradient norm."""

from .._earlier_names import earlier_names
from .adamw import AdamW
from .clip import clip_grad_norm_
from .optimizer import Optimizer, decay_groups
from .schedule import Schedule
from .scheduler import CosineAnnealingLR, LambdaLR
from .sgd import SGD

__all__ = [
    "SGD",
    "AdamW",
    "CosineAnnealingLR",
    "LambdaLR",
    "Optimizer",
    "Schedule",
    "clip_grad_norm_",
    "decay_groups",
]

__getattr__ = earlier_names(
    __name__,
    {"clip_by_global_norm": "optim.clip.clip_by_global_norm"},
    elsewhere={
        "Adam": "AdamW(parameters, weight_decay=0)",
        "lr_scheduler": "CosineAnnealingLR and LambdaLR, in optim itself",
    },
)
