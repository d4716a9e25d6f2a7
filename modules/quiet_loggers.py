"""Loggers that say less for a while."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_loggers(*names: str, level: int = logging.ERROR) -> Iterator[None]:
    """Let loggers say in this block only what is as grave as ``level``; then they are as before.

    Args:
        names: of the loggers.
        level: of `logging`.
    """
    before = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in before:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, own in before.items():
            logger.setLevel(own)
