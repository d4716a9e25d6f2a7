"""Floating-point operations of whatever is computed while a counter is on."""

from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


class FlopCounter(TorchDispatchMode):
    """Counts the FLOPs of matrix products and attention, forward and backward.

    It counts by the formulas of torch's `FlopCounterMode`, which takes twice as long, since it also keeps an account
    for each module.

    Attributes:
        flops: so far.

    Example:
        >>> with FlopCounter() as counter:
        ...     product = torch.ones(2, 3) @ torch.ones(3, 4)
        >>> counter.flops
        48
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is None and _is_composite(func):  # in inference mode it comes in one piece
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


@cache
def _is_composite(func: Any) -> bool:
    """Return whether an operation is made of others."""
    found: bool = func._can_decompose()
    return found


Shape = tuple[int, ...]


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, out_shape: Any = None, **options: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, out_shape: Any = None, **options: Any
) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


def _matrix_vector(matrix: Shape, vector: Shape, out_shape: Any = None) -> int:
    return 2 * matrix[0] * matrix[1]


_MISSING_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten.mv: _matrix_vector,  # the gradient of a merge's coefficients
}
"""Operations that torch 2.13 does not count by itself: attention on CPUs, and products of a matrix and a vector."""

_FORMULAS = FlopCounterMode(display=False, custom_mapping=_MISSING_FORMULAS).flop_registry
"""The formula of each operation that has FLOPs."""
