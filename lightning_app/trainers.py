"""One Trainer a stage, each made anew from the recipe's ``trainer`` section."""

from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks import ResumableRun, StageProgressBar

NO_EFFECT = {
    "callbacks", "logger", "profiler", "default_root_dir", "log_every_n_steps", "max_time", "barebones",
    "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "enable_autolog_hparams",
    "num_sanity_val_steps", "model_registry",
}  # fmt: skip
"""Keys of the Trainer that do not change what is trained. A new key counts as one that does."""

LENGTHS = ("max_epochs", "min_epochs", "max_steps", "min_steps", "val_check_interval", "check_val_every_n_epoch")
"""Keys of the Trainer that are about the position's training; a recipe says its own."""


class TrainerFactory:
    """Makes Trainers that share accelerator, devices, strategy, precision and so on.

    Args:
        config: the ``trainer`` section, as parsed, nothing in it instantiated.
        run_dir: TensorBoard logs go to ``<run_dir>/logs/<stage>``.
        seed: set before every stage, so that its result does not depend on which stages ran before it.
    """

    def __init__(self, config: Namespace, run_dir: str, seed: int) -> None:
        self.config = config
        self.run_dir = run_dir
        self.seed = seed
        self._parser = LightningArgumentParser()
        self._parser.add_lightning_class_args(Trainer, "trainer")

    def with_seed(self, seed: int) -> "TrainerFactory":
        """The same with other random numbers."""
        return TrainerFactory(self.config, self.run_dir, seed)

    def settings(self, *, lengths: bool) -> dict[str, Any]:
        """What a stage's key must hold of the ``trainer`` section.

        Args:
            lengths: whether the stage trains as long as the section says.
        """
        ignored = NO_EFFECT if lengths else NO_EFFECT | set(LENGTHS)
        section: dict[str, Any] = self.config.as_dict()
        return {key: value for key, value in section.items() if key not in ignored} | {"seed": self.seed}

    def make(self, label: str, callbacks: list[Callback], **overrides: Any) -> Trainer:
        """A Trainer for one stage.

        Args:
            label: the stage's name, on its bar and in TensorBoard.
            callbacks: the stage's own.
            overrides: arguments of the Trainer.
        """
        config = self.config.clone()
        config.callbacks = config.logger = None
        arguments = self._parser.instantiate(Namespace(trainer=config)).trainer.as_dict()
        arguments |= {"default_root_dir": self.run_dir, "logger": self.logger(label), "enable_checkpointing": False}
        arguments |= {"enable_model_summary": False} | overrides
        bar = [StageProgressBar(label)] if arguments["enable_progress_bar"] is not False else []
        return Trainer(**(arguments | {"callbacks": [*bar, *callbacks]}))

    def make_silent(self, label: str) -> Trainer:
        """A Trainer that only validates: it neither logs nor draws."""
        return self.make(label, [], logger=False, enable_progress_bar=False)

    def logger(self, label: str) -> TensorBoardLogger:
        """TensorBoard, in a folder of the stage's own."""
        return TensorBoardLogger(self.run_dir, name="logs", version=label)

    def fit(self, trainer: Trainer, module: LightningModule, data: LightningDataModule) -> None:
        """Train, from the last checkpoint of the Trainer's `ResumableRun` if there is one.

        Raises:
            Interrupted: the user stopped it.
        """
        run = next(callback for callback in _callbacks(trainer) if isinstance(callback, ResumableRun))
        trainer.fit(module, datamodule=data, ckpt_path=run.checkpoint, weights_only=True)
        run.raise_if_interrupted()
        if trainer.is_global_zero:
            Path(run.path).unlink(missing_ok=True)

    @property
    def device(self) -> torch.device:
        """Where a process of these Trainers computes."""
        return self.make("device", [], logger=False).strategy.root_device

    def seed_stage(self) -> None:
        """Set all random numbers to the recipe's seed."""
        seed_everything(self.seed, workers=True, verbose=False)


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks
