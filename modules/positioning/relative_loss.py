"""The losses of a model on the validation rows, which other losses are relative to."""

from collections.abc import Mapping

import torch
from lightning import Trainer
from torch import nn

from modules.distributed import local
from modules.errors import UserError
from modules.losses.task_loss import task_loss


@torch.no_grad()
def validation_losses(encoder: nn.Module, trainer: Trainer) -> dict[str, float]:
    """Return the mean loss of an encoder per data set, on its validation rows, over all processes.

    Args:
        encoder: on the trainer's device.
        trainer: at work, with a data module that has ``task_losses``.
    """
    device, data, losses = trainer.strategy.root_device, trainer.datamodule, {}  # type: ignore[attr-defined]
    for task, loader in zip(data.task_losses, data.val_dataloader(), strict=True):
        total = torch.zeros(2, device=device, dtype=torch.float32)  # sum of losses, number of rows
        for batch in loader:
            moved = batch.to(device)
            with trainer.precision_plugin.val_step_context():
                loss = task_loss(encoder, moved, local).loss
            total += torch.stack([loss * len(batch), torch.full_like(loss, len(batch))])
        total = trainer.strategy.reduce(total, reduce_op="sum")
        losses[task] = float(total[0] / total[1])
    return losses


def refuse_undefined(base_losses: Mapping[str, float]) -> None:
    """Refuse losses by which no loss can be divided.

    Args:
        base_losses: data set to the base's loss on its validation rows.

    Raises:
        UserError: a loss is zero or not finite.
    """
    for task, loss in base_losses.items():
        if not 0 < loss < float("inf"):
            raise UserError(
                f"'{task}': the base's loss on its validation rows is {loss}, so no loss is relative to it; "
                "give it more or other rows, or leave it out"
            )
