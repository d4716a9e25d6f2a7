"""Cosines between the gradients of several losses: task conflict, as joint training meets it.

Two tasks conflict where the cosine of their gradients is negative: Yu et al. 2020 (arXiv 2001.06782), definition 1.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from modules.distributed import local
from modules.evaluation_mode import evaluation_mode
from modules.full_precision import without_autocast
from modules.gram import gram_of
from modules.losses.task_batch import TaskBatch
from modules.losses.task_loss import task_loss


def gradient_cosines(
    encoder: nn.Module,
    batches: Mapping[str, Sequence[TaskBatch]],
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Tensor:
    """Return the cosines between the gradients of T losses with respect to an encoder's trainable parameters.

    The loss of a data set is the mean over its batches, the loss of a group the mean over its data sets. They are taken
    in evaluation mode; ``.grad``, the mode and the random numbers stay as they were. One gradient per group is in
    memory, and the gradient of the present batch.

    Args:
        encoder: maps features to ``[batch, dim]``.
        batches: of each data set, on the encoder's device; negatives come from the batch only.
        groups: name of each group to names of its data sets; None: every data set is a group.

    Returns:
        ``[T, T]`` float64, on the CPU, in the order of the groups; NaN where a gradient is zero.
    """
    groups = groups or {name: [name] for name in batches}
    weights = [p for p in encoder.parameters() if p.requires_grad]
    with evaluation_mode(encoder):
        gradients = [_gradient(encoder, weights, [batches[name] for name in names]) for names in groups.values()]
    gram = torch.zeros(len(groups), len(groups), dtype=torch.float64)
    for of_one_weight in zip(*gradients, strict=True):
        gram += gram_of(torch.stack(of_one_weight))
    norms = gram.diagonal().sqrt()
    return gram / (norms[:, None] * norms)


def _gradient(
    encoder: nn.Module, weights: Sequence[nn.Parameter], data_sets: Sequence[Sequence[TaskBatch]]
) -> list[Tensor]:
    total = [torch.zeros_like(weight) for weight in weights]
    for batches in data_sets:
        for batch in batches:
            loss = task_loss(encoder, batch, local).loss / (len(batches) * len(data_sets))
            with without_autocast(loss):
                # Unlike `backward`, this leaves `.grad` alone, and the hooks with which DDP reduces it.
                gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
            for part, gradient in zip(total, gradients, strict=True):
                part += gradient
    return total
