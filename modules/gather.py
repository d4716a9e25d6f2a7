"""What the processes of a run tell each other: all-gather, with its gradient, and what the main one has."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class _AllGather(torch.autograd.Function):
    """Backward: each process receives the sum, over all processes, of the gradients of its own rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed.chunk(dist.get_world_size())[dist.get_rank()]


def all_gather(tensor: Tensor) -> Tensor:
    """Concatenate a tensor over the processes, in rank order; the gradient flows back to where rows came from.

    Args:
        tensor: ``[rows, ...]``, of the same shape in every process.

    Returns:
        ``[rows * world_size, ...]``; the tensor itself outside a distributed run.
    """
    return _AllGather.apply(tensor) if world_size() > 1 else tensor


def world_size() -> int:
    """Number of processes, 1 outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0 outside a distributed run."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main_process() -> bool:
    """Whether this process writes; known before any process group exists, because launchers say it."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only  # here, because merging files does not wait for it

    return rank() == 0 and getattr(rank_zero_only, "rank", 0) == 0


def from_main(value: T) -> T:
    """The main process's value, in every process; the value itself outside a distributed run."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()
