"""Lines that are printed once per process, however often they come up."""

from functools import cache

from lightning.pytorch.utilities.rank_zero import rank_zero_info


@cache
def say_once(message: str) -> None:
    """Print a line in the main process, unless it was printed before."""
    rank_zero_info(message)
