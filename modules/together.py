"""Several processes that succeed together or fail together."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from modules.errors import UserError
from modules.gather import rank, world_size


class OtherProcessFailed(RuntimeError):
    """What a process raises that was well itself; its message is the error of the one that was not."""


@contextmanager
def together() -> Iterator[None]:
    """What one process raises in this block ends the block in all of them, so that none waits for it for ever.

    Blocks may be nested: a process that fails in the outer one is found out by the others at the end of the inner one
    that they come to next.

    Raises:
        OtherProcessFailed: another process raised something; its message says which and what.
        UserError: the same, if that was one.
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
    """Tell all processes how this one fared, and hear of all."""
    told = None
    if error is not None:
        kind = UserError if isinstance(error, UserError) else OtherProcessFailed
        told = kind(f"process {rank()} failed: {type(error).__name__}: {error}")
    heard: list[Exception | None] = [None] * world_size()
    dist.all_gather_object(heard, told)
    return heard
