"""The loss of one batch of one data set: the one engine that experts, joint models and positions all train with."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.distributed import all_gather, rank, world_size
from modules.encoding.by_length import embed_by_length
from modules.encoding.features import Features
from modules.full_precision import float32_or_better
from modules.losses.functional import cosent, info_nce, paired_cosines, same_text_mask, supervised_contrastive
from modules.losses.task_batch import TaskBatch

Gather = Callable[[Tensor], Tensor]
"""Maps the rows of this process to those of all: `modules.distributed.all_gather`, or `local`."""


def local(tensor: Tensor) -> Tensor:
    """Keep to the rows of this process: negatives come from its own micro-batch only."""
    return tensor


@dataclass
class TaskOutput:
    """What a batch gave.

    Args:
        loss: scalar.
        embeddings: one ``[batch, dim]`` per text column of the batch, float32 or better.
    """

    loss: Tensor
    embeddings: list[Tensor]


def task_loss(encoder: Callable[[Features], Tensor], batch: TaskBatch, gather: Gather = all_gather) -> TaskOutput:
    """Embed a batch and take its data set's loss.

    With `all_gather`, the mean over processes of the returned losses is the loss of the whole batch on one process,
    and so are the gradients that data-parallel training averages.

    Args:
        encoder: maps features to ``[batch, dim]``.
        batch: rows of one data set.
        gather: whose rows are compared with: all processes' or this one's.
    """
    # Raised before they are gathered, so that gradients, too, are added up over the processes in float32.
    embeddings = [float32_or_better(embed_by_length(encoder, features)) for features in batch.features]
    loss = _LOSSES[batch.loss.name](embeddings, batch, gather)
    return TaskOutput(loss, embeddings)


def _own_columns(batch: TaskBatch, gather: Gather) -> Tensor:
    """Where the rows of this process stand among the gathered ones: ``[batch]``."""
    offset = 0 if gather is local else rank() * len(batch)
    return torch.arange(len(batch), device=batch.text_ids.device) + offset


def _info_nce(embeddings: list[Tensor], batch: TaskBatch, gather: Gather) -> Tensor:
    anchors, *others = embeddings
    candidates = torch.cat([gather(column) for column in others])
    anchor_ids, *other_ids = batch.text_ids
    candidate_ids = torch.cat([gather(ids) for ids in other_ids])
    own = _own_columns(batch, gather)
    excluded = same_text_mask(anchor_ids, gather(anchor_ids), candidate_ids, own)
    return info_nce(anchors, candidates, own, excluded, batch.loss.temperature)


def _cosent(embeddings: list[Tensor], batch: TaskBatch, gather: Gather) -> Tensor:
    similarities = paired_cosines(embeddings[0], embeddings[1])
    assert batch.target is not None
    return cosent(gather(similarities), gather(batch.target), batch.loss.temperature)


def _supcon(embeddings: list[Tensor], batch: TaskBatch, gather: Gather) -> Tensor:
    assert batch.target is not None
    labels = gather(batch.target)
    own = _own_columns(batch, gather)
    rows = supervised_contrastive(
        embeddings[0], batch.target, gather(embeddings[0]), labels, own, batch.loss.temperature
    )
    # The mean is over rows that have a positive, and how many there are differs between processes.
    has_positive = (labels[:, None] == labels).sum(1) > 1
    processes = 1 if gather is local else world_size()
    return rows.sum() * processes / has_positive.sum().clamp(min=1)


_LOSSES = {"infonce": _info_nce, "cosent": _cosent, "supcon": _supcon}
