"""The loss of one batch of one data set: the one engine that experts, joint models and positions all train with."""

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
    """The loss of a batch and the embeddings that it was taken of.

    Args:
        loss: scalar.
        embeddings: one ``[batch, dim]`` per text column of the batch, float32 or better.
    """

    loss: Tensor
    embeddings: list[Tensor]


def task_loss(encoder: Callable[[Features], Tensor], batch: TaskBatch, gather: Gather = all_gather) -> TaskOutput:
    """Embed a batch and return its data set's loss.

    With `all_gather`, the mean over processes of the returned losses is the loss of the whole batch on one process,
    and so are the gradients that data-parallel training averages.

    Args:
        encoder: maps features to ``[batch, dim]``.
        batch: rows of one data set.
        gather: whose rows are compared with: all processes' or this one's.
    """
    # Raised before they are gathered, so that gradients, too, are added up over the processes in float32.
    embeddings = [float32_or_better(embed_by_length(encoder, features)) for features in batch.features]
    return TaskOutput(make_loss(batch.loss).batch_loss(embeddings, batch, gather), embeddings)
