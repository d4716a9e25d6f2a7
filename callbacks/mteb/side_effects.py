"""mteb called as if it had no side effects: on random numbers, on what is shown, on other processes."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
from lightning.pytorch.utilities.seed import isolate_rng

from modules.distributed import fail_together
from modules.quiet_loggers import quiet_loggers


@contextmanager
def without_side_effects() -> Iterator[None]:
    """Call mteb in this block: random numbers go on as if it had not run, and its remarks are not shown.

    mteb reseeds every generator when it is imported and when it makes a task, draws bars of ``datasets``, and remarks
    at every evaluation that a task has a successor; its classifier warns ten times of a class that no text was given
    to. A process that fails in the block fails all, see `fail_together`.
    """
    with fail_together(), isolate_rng(), _quiet():
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Show no progress bars of ``datasets`` and no remarks of mteb."""
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings(), quiet_loggers("mteb"):
            warnings.filterwarnings("ignore", module="mteb")
            warnings.filterwarnings("ignore", module=r"sklearn\.metrics")
            yield
    finally:
        if not bars:
            datasets.enable_progress_bars()
