"""The loss of a batch of one data set, with which experts, joint models and positions are all trained."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from modules.distributed import Gather, all_gather
from modules.encoding.by_length import embed_by_length
from modules.encoding.features import Features
from modules.full_precision import float32_or_better
from modules.losses.loss import make_loss
from modules.losses.task_batch import TaskBatch


@dataclass
class TaskOutput:
    """The loss of a batch, and the embeddings that it was computed from.

    Args:
        loss: scalar.
        embeddings: one ``[batch, dim]`` per text column of the batch, float32 or better.
    """

    loss: Tensor
    embeddings: list[Tensor]


def task_loss(encoder: Callable[[Features], Tensor], batch: TaskBatch, gather: Gather = all_gather) -> TaskOutput:
    """Embed a batch and return the loss of its data set.

    With `all_gather`, the mean of the losses over the processes is the loss of the whole batch on one process, and so
    are the gradients that data-parallel training averages.

    Args:
        encoder: maps features to ``[batch, dim]``.
        batch: rows of one data set.
        gather: `all_gather` compares with the rows of all processes, `local` with the rows of this one.
    """
    # Raised before they are gathered, so that gradients, too, are added up over the processes in float32.
    embeddings = [float32_or_better(embed_by_length(encoder, features)) for features in batch.features]
    return TaskOutput(make_loss(batch.loss).batch_loss(embeddings, batch, gather), embeddings)
