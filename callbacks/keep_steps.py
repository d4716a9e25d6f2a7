"""Models of some steps of a training, kept beside that of its end."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from modules.contrastive_module import ContrastiveModule


class KeepSteps(Callback):
    """Saves the model every so many optimiser steps, as a folder that merges can name.

    Args:
        folder: models go to ``<folder>/<step>``.
        every: optimiser steps from one model to the next.

    Example:
        >>> Trainer(callbacks=[KeepSteps("run/kept", every=80)])
    """

    def __init__(self, folder: str | Path, every: int) -> None:
        self.folder, self.every = Path(folder), every
        self._last = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save the model if it is time; once per step, also where gradients are accumulated."""
        step = trainer.global_step
        if step == self._last or step % self.every:
            return
        self._last = step
        if trainer.is_global_zero:
            assert isinstance(pl_module, ContrastiveModule)
            pl_module.save(self.folder / str(step))
