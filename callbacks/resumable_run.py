"""A checkpoint of a training that can be stopped, by its user or by an accident, and goes on at the next batch."""

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from modules.checkpoints.whole import is_whole
from modules.errors import Interrupted


class ResumableRun(Callback):
    """Keeps one checkpoint to go on from.

    The first Ctrl-C or SIGTERM lets the running optimiser step end, and the validation that follows it if one does,
    saves, and stops all processes; a second Ctrl-C stops at once. After `Trainer.fit`, call `raise_if_interrupted`.
    The state of the CPU's random numbers is part of the checkpoint, so a run on one CPU process that was stopped ends
    with the same weights as one that was not; on GPUs, and with several processes, dropout goes on with other numbers.

    Args:
        folder: where the checkpoint is kept.
        every_n_steps: optimiser steps between checkpoints, in case the machine is lost.

    Example:
        >>> resumable = ResumableRun("run")
        >>> Trainer(callbacks=[resumable]).fit(module, datamodule=data, ckpt_path=resumable.checkpoint)
        >>> resumable.raise_if_interrupted()
    """

    def __init__(self, folder: str | Path, every_n_steps: int = 200) -> None:
        self.path = Path(folder) / "resume.ckpt"
        self.every_n_steps = every_n_steps
        self._requested = False
        self._interrupted_at: int | None = None
        self._step = 0
        self._due = self._stop = False
        self._random_state: torch.Tensor | None = None
        self._handlers: dict[int, Any] = {}

    @property
    def checkpoint(self) -> str | None:
        """Path for ``ckpt_path`` of `Trainer.fit`; None: there is no checkpoint, or a damaged one, which is said."""
        if not self.path.is_file():
            return None
        if not is_whole(self.path):
            rank_zero_info(f"{self.path} is damaged: training begins at its start")
            return None
        return str(self.path)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals, after Lightning has set its own handlers, and the random numbers of the checkpoint."""
        self._step = trainer.global_step
        self._handlers = {s: signal.signal(s, self._request) for s in (signal.SIGINT, signal.SIGTERM)}
        if self._random_state is not None:
            torch.set_rng_state(self._random_state)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save and stop if asked to, or save if it is time; never between two parts of an accumulated batch."""
        if trainer.global_step == self._step or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._step = trainer.global_step
        self._stop = trainer.strategy.reduce_boolean_decision(self._requested, all=False)
        self._due = self._stop or self._step % self.every_n_steps == 0
        loop = trainer.fit_loop
        # A run resumed from here would skip a validation that comes next: that one belongs into the checkpoint.
        if self._due and not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # type: ignore[arg-type]
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save and stop, if that waited for this validation."""
        if self._due:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the random numbers."""
        return {"random_state": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of the random numbers until training starts."""
        self._random_state = state_dict["random_state"]

    @property
    def interrupted(self) -> bool:
        """True if the run was stopped by a signal."""
        return self._interrupted_at is not None

    def raise_if_interrupted(self) -> None:
        """Raise `Interrupted` if the run was stopped by a signal."""
        if self.interrupted:
            raise Interrupted(f"stopped after step {self._interrupted_at}; the same command goes on from there")

    def _save(self, trainer: Trainer) -> None:
        self._due = False
        aside = self.path.with_name(f"{self.path.name}.tmp")
        trainer.save_checkpoint(aside, weights_only=False)  # with the optimiser; is read with weights_only=True
        if trainer.is_global_zero:
            aside.replace(self.path)
        if self._stop:
            self._interrupted_at = self._step
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # stopping would validate first

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


def was_interrupted(trainer: Trainer) -> bool:
    """Return whether a `ResumableRun` of this trainer was stopped by a signal, so that its results are not the last."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(callback, ResumableRun) and callback.interrupted for callback in callbacks)
