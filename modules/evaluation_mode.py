"""Evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """In this block a module has no dropout and the like; its mode is put back afterwards."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
