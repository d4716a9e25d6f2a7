"""The best step of a training, and an end to training that harms other tasks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from safetensors.torch import load_file, save_file

from callbacks.resumable_run import was_interrupted
from datamodules import TaskData
from datamodules.task_datamodule import first_batches
from modules.distributed import barrier, local
from modules.embedding_module import EmbeddingModule
from modules.errors import UserError
from modules.evaluation_mode import evaluation_mode
from modules.losses.task_loss import task_loss

OTHERS = "others/loss"
"""The mean loss of the other tasks relative to that at the start, as loggers have it."""


class KeepBest(Callback):
    """Goes back to the step with the lowest ``val/loss`` at the end of training.

    A gentle expert also watches the losses of other tasks: a step at which their mean, relative to the start's, is
    above `at_most` is not kept, and is the last.

    Args:
        folder: has the weights of the best step in ``best.safetensors`` while training runs.
        others: data sets of other tasks, with their losses; empty: none are watched.
        at_most: bound of the mean loss of `others` relative to that at the start; None: none.
        patience: validations without a better step after which training ends; None: it does not.
        batch_size: rows per batch of the other tasks.
        max_length: tokens per text of the other tasks.

    Example:
        >>> Trainer(callbacks=[KeepBest("run", others=[sts.probe], at_most=1.02)], val_check_interval=20)
    """

    def __init__(
        self,
        folder: str | Path,
        others: Sequence[TaskData] = (),
        at_most: float | None = None,
        patience: int | None = None,
        batch_size: int = 32,
        max_length: int | None = None,
    ) -> None:
        self.path = Path(folder) / "best.safetensors"
        self.others, self.at_most, self.patience = others, at_most, patience
        self.batch_size, self.max_length = batch_size, max_length
        self._state: dict[str, Any] = {"best": float("inf"), "step": None, "waited": 0, "start": []}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the losses of the other tasks at the start."""
        if self.others and not self._state["start"]:
            self._state["start"] = self._losses(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the step if it is the best, and end training if it is time."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value, allowed = float(trainer.callback_metrics["val/loss"]), self._allowed(trainer, pl_module)
        if allowed and value < self._state["best"]:
            self._state |= {"best": value, "step": trainer.global_step, "waited": 0}
            if trainer.is_global_zero:
                save_file(_trained(pl_module), self.path)
        else:
            self._state["waited"] += 1
        patient = self.patience is None or self._state["waited"] < self.patience
        if not allowed or not patient:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the best step, unless a signal ended training, which goes on later.

        Raises:
            UserError: no step was allowed.
        """
        if was_interrupted(trainer):
            return
        step = self._state["step"]
        if step is None:
            raise UserError(
                f"at every validated step the loss of the other tasks was above {self.at_most} times that at the "
                "start: raise stop_early.at_most, validate more often, or lower lr"
            )
        barrier()  # the main process has written the weights
        kept = load_file(self.path)
        for name, parameter in _trained(pl_module).items():
            parameter.data.copy_(kept[name])
        rank_zero_info(f"  kept step {step} of {trainer.global_step}: val/loss {self._state['best']:.4f}")
        barrier()
        if trainer.is_global_zero:
            self.path.unlink()

    def state_dict(self) -> dict[str, Any]:
        """Return the best step and the losses at the start."""
        return dict(self._state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._state = dict(state_dict)

    def _allowed(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Return whether the other tasks are harmed by no more than is allowed."""
        if not self.others:
            return True
        ratios = [now / at_start for now, at_start in zip(self._losses(pl_module), self._state["start"], strict=True)]
        mean = sum(ratios) / len(ratios)
        for logger in trainer.loggers:
            logger.log_metrics({OTHERS: mean}, step=trainer.global_step)
        return self.at_most is None or mean <= self.at_most

    @torch.no_grad()
    def _losses(self, pl_module: LightningModule) -> list[float]:
        """The mean loss of each of the other tasks; every process takes all of it, so that all decide alike."""
        assert isinstance(pl_module, EmbeddingModule)
        tokenize = pl_module.tokenization(self.max_length)
        found = []
        with evaluation_mode(pl_module):
            for data in self.others:
                prompted = data.with_prompts(pl_module.side_prompts)
                total, rows = 0.0, 0
                for batch in first_batches([prompted], len(data), self.batch_size, tokenize):
                    loss = task_loss(pl_module.encoder, batch.to(pl_module.device), local).loss
                    total, rows = total + float(loss) * len(batch), rows + len(batch)
                found.append(total / rows)
        return found


def _trained(pl_module: LightningModule) -> dict[str, torch.Tensor]:
    """The tensors that training changes, by name."""
    return {name: parameter for name, parameter in pl_module.named_parameters() if parameter.requires_grad}
