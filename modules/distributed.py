"""Communication of the processes of a run: all-gather with its gradient, values of the main process, and failures."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from modules.errors import UserError

T = TypeVar("T")

Gather = Callable[[Tensor], Tensor]
"""Maps the rows of this process to the rows that they are compared with: `all_gather` or `local`."""


class _AllGather(torch.autograd.Function):
    """All-gather whose backward pass gives each process the sum over all processes of the gradients of its rows."""

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
    """Concatenate a tensor over the processes, in rank order; the gradient of a row flows back to its process.

    Args:
        tensor: ``[rows, ...]``, of the same shape in every process.

    Returns:
        ``[rows * world_size, ...]``; the tensor itself outside a distributed run.
    """
    return _AllGather.apply(tensor) if world_size() > 1 else tensor


def local(tensor: Tensor) -> Tensor:
    """Return the rows of this process alone: negatives come from its own micro-batch only."""
    return tensor


def own_places(rows: Tensor, gather: Gather) -> Tensor:
    """Return the places of this process's rows among the gathered rows: ``[batch]`` int64.

    Args:
        rows: ``[batch, ...]``.
        gather: `all_gather` or `local`.
    """
    offset = 0 if gather is local else rank() * len(rows)
    return torch.arange(len(rows), device=rows.device) + offset


def processes_of(gather: Gather) -> int:
    """Return the number of processes whose rows are gathered."""
    return 1 if gather is local else world_size()


def world_size() -> int:
    """Return the number of processes, 1 outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, 0 outside a distributed run."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main_process() -> bool:
    """Return whether this is the main process, which writes files; launchers say it before a process group exists."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only  # here, because merging files does not wait for it

    return rank() == 0 and getattr(rank_zero_only, "rank", 0) == 0


def from_main(value: T) -> T:
    """Return the main process's value, in every process; the value itself outside a distributed run."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def barrier() -> None:
    """Wait until every process has reached this call."""
    if world_size() > 1:
        dist.barrier()


class OtherProcessFailed(RuntimeError):
    """Raised in a process where another has failed; the message has the error of the other process."""


@contextmanager
def fail_together() -> Iterator[None]:
    """End the block in all processes when one of them raises in it, so that none waits for it for ever.

    Blocks may be nested: the other processes learn of a failure in the outer block at the end of their next inner one.

    Raises:
        OtherProcessFailed: another process raised an error; the message has the process and its error.
        UserError: another process raised a UserError; the message is the same.
    """
    try:
        yield
    except Exception as error:
        if world_size() > 1 and not hasattr(error, "known_to_all"):
            error.known_to_all = True  # type: ignore[attr-defined]
            _exchange(error)
        raise
    if world_size() > 1:
        failures = [failure for failure in _exchange(None) if failure is not None]
        if failures:
            failures[0].known_to_all = True  # type: ignore[attr-defined]
            raise failures[0]


def _exchange(error: Exception | None) -> list[Exception | None]:
    """Share this process's error with all, and return the error of each process, None where it has none."""
    told = None
    if error is not None:
        kind = UserError if isinstance(error, UserError) else OtherProcessFailed
        told = kind(f"process {rank()} failed: {type(error).__name__}: {error}")
    heard: list[Exception | None] = [None] * world_size()
    dist.all_gather_object(heard, told)
    return heard
