"""What all comparisons with PyTorch share: the import, one thread, autograd, and masks as numbers to add."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...arrays import Array
from ...errors import MissingExtraError
from ...ops.attention import Mask
from ..record import Arguments, Tensor

__all__ = ["autograd", "capped", "dense_mask", "functional", "import_torch", "one_thread"]


def import_torch() -> Any:
    """Return PyTorch, imported when a check first needs it.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            "verify: the checks compare with PyTorch, which is not installed: "
            "pip install 'compyute-transformer[verify]'."
        ) from error
    return torch


def functional() -> Any:
    """Return torch.nn.functional."""
    return import_torch().nn.functional


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread in PyTorch: on products this small several only wait for each other."""
    torch = import_torch()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def autograd(
    function: Callable[..., Tensor], arguments: Arguments, dy: Array, differentiable: tuple[str, ...]
) -> tuple[Array, dict[str, Array | None]]:
    """Return a PyTorch function's result and its gradients by name, as arrays; None where the argument was None."""
    torch = import_torch()
    tensors = {
        name: torch.from_numpy(np.array(value)).requires_grad_(name in differentiable)
        if hasattr(value, "dtype")
        else value
        for name, value in arguments.items()
    }
    y = function(**tensors)
    y.backward(torch.from_numpy(dy))
    gradients = {name: None if tensors[name] is None else tensors[name].grad.numpy() for name in differentiable}
    return y.detach().numpy(), gradients


def capped(scores: Tensor, soft_cap: float | None) -> Tensor:
    """Return scores within ±soft_cap."""
    return scores if soft_cap is None else soft_cap * (scores / soft_cap).tanh()


def dense_mask(mask: Mask, T: int, S: int, dtype: Any) -> Tensor:
    """Return a mask as numbers to add to the scores, −inf where a key is hidden; it broadcasts to (B, H, T, S).

    A soft cap is no sum, and left out. It is written from the description of `Mask`, without a line of the code that it
    is compared with.
    """
    torch = import_torch()
    steps_back = torch.arange(S - T, S)[:, None] - torch.arange(S)
    hidden = torch.zeros(T, S, dtype=torch.bool)
    if mask.causal:
        hidden = hidden | (steps_back < 0)
    if mask.window is not None:
        hidden = hidden | (steps_back.abs() >= mask.window)
    if mask.key_lengths is not None:
        hidden = hidden | (torch.arange(S) >= torch.from_numpy(mask.key_lengths)[:, None, None, None])
    added = torch.zeros(T, S, dtype=dtype)
    if mask.array is not None and mask.array.dtype.kind == "b":
        hidden = hidden | ~torch.from_numpy(mask.array)
    elif mask.array is not None:
        added = added + torch.from_numpy(mask.array)
    if mask.slopes is not None:
        added = added - torch.from_numpy(mask.slopes)[:, None, None].to(dtype) * steps_back.abs()
    return added.masked_fill(hidden, -torch.inf)
