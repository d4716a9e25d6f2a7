"""Gradient checkpointing of a model in evaluation mode."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def checkpointing_layers(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """Return the layers of a model that transformers can checkpoint."""
    return [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]


@contextmanager
def checkpointed_in_evaluation(layers: Sequence[GradientCheckpointingLayer]) -> Iterator[None]:
    """Make layers with ``gradient_checkpointing`` heed it within the block, and still run without dropout.

    transformers checkpoints in training mode only: here a layer is in training mode until it runs.
    """
    name = "_gradient_checkpointing_func"
    active = [(layer, getattr(layer, name)) for layer in layers if layer.gradient_checkpointing]
    for layer, checkpoint in active:
        setattr(layer, name, partial(_checkpoint, layer, checkpoint))
        layer.training = True
    try:
        yield
    finally:
        for layer, checkpoint in active:
            setattr(layer, name, checkpoint)
            layer.training = False


def _checkpoint(layer: nn.Module, checkpoint: Callable[..., Any], run: Callable[..., Any], *arguments: Any) -> Any:
    layer.training = False
    return checkpoint(run, *arguments)
