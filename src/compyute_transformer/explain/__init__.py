"""Explain: one forward and backward of a model, recorded, and shown in one self-contained HTML page."""

from .page import page
from .trace import Trace, trace

__all__ = ["Trace", "page", "trace"]
