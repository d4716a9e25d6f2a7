"""Lines that a process says once, however often it comes by."""

from functools import cache

from lightning.pytorch.utilities.rank_zero import rank_zero_info


@cache
def say_once(message: str) -> None:
    """Print a line in the main process, unless it was printed before."""
    rank_zero_info(message)
