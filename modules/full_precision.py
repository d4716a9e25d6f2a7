"""Float32 where mixed precision would reach: losses, metrics, and gradients that are reduced to a few numbers.

Autocast runs every matrix product in half precision, whatever the dtype of its factors. A cosine that is rounded to
8 bits and divided by a temperature of .02 is off by .2.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")


def without_autocast(tensor: Tensor) -> torch.autocast:
    """Return a context manager that turns autocast off on a tensor's device.

    Take gradients within it, too: the gradients of a matrix product are matrix products, which would be cast as well.
    """
    return torch.autocast(tensor.device.type, enabled=False)


def float32_or_better(tensor: Tensor) -> Tensor:
    """Return a tensor in float32, or in float64 if it is float64 already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def in_full_precision(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Make a function compute in float32 or better: its floating-point tensors are raised, and autocast is off.

    Args:
        function: takes tensors by position; the first argument is one.
    """

    @wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        raised = [float32_or_better(x) if isinstance(x, Tensor) and x.is_floating_point() else x for x in args]
        first = raised[0]
        assert isinstance(first, Tensor)
        with without_autocast(first):
            return function(*raised, **kwargs)  # type: ignore[arg-type]

    return computed
