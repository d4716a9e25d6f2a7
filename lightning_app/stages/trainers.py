"""One Trainer a stage, each made anew from the recipe's ``trainer`` section."""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import Namespace
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks import ResumableRun, StageProgressBar
from modules import Search

NO_EFFECT = {
    "logger", "profiler", "default_root_dir", "log_every_n_steps", "barebones", "enable_checkpointing",
    "enable_progress_bar", "enable_model_summary", "enable_autolog_hparams", "num_sanity_val_steps", "model_registry",
    "limit_test_batches", "limit_predict_batches", "inference_mode", "detect_anomaly", "use_distributed_sampler",
    "callbacks",
}  # fmt: skip
"""Keys of the Trainer that do not change what is trained. A new key counts as one that does.

Callbacks are those of one stage only, which has them in its key by itself; see `TrainerFactory.own`."""

LENGTHS = {
    "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "val_check_interval", "check_val_every_n_epoch",
}  # fmt: skip
"""Keys of the Trainer that are about the position's training; a recipe says its own."""

TRAINING = {
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "limit_train_batches",
    "reload_dataloaders_every_n_epochs",
}  # fmt: skip
"""Keys of the Trainer that change nothing where a stage only takes losses."""

MINI_BATCHES = {
    "accumulate_grad_batches": 1,
    "gradient_clip_val": None,
    "gradient_clip_algorithm": None,
    "limit_train_batches": None,
    "overfit_batches": 0.0,
}
"""Keys of the Trainer, with their defaults, that a search on the whole probe has no use for: it has one batch an epoch,
and takes its steps itself."""

Purpose = Literal["expert", "position", "validation"]
"""What a stage has its Trainer for; the last only takes losses."""


class TrainerFactory:
    """Makes Trainers that share accelerator, devices, strategy, precision and so on.

    Args:
        config: the ``trainer`` section, as parsed, nothing in it instantiated.
        run_dir: TensorBoard logs go to ``<run_dir>/logs/<stage>``.
        seed: set before every stage, so that its result does not depend on which stages ran before it.
        own: what the key of the one stage holds that is trained with the callbacks of the section.
    """

    def __init__(self, config: Namespace, run_dir: str, seed: int, own: dict[str, Any] | None = None) -> None:
        self.config = config
        self.run_dir = run_dir
        self.seed = seed
        self.own = own or {}

    def with_seed(self, seed: int) -> "TrainerFactory":
        """Return the same Trainers with other random numbers."""
        return TrainerFactory(self.config, self.run_dir, seed, self.own)

    def settings(self, purpose: Purpose, search: Search | None = None) -> dict[str, Any]:
        """Return what a stage's key must hold of the ``trainer`` section.

        Args:
            purpose: of the stage's Trainer.
            search: of a position.
        """
        ignored = NO_EFFECT | (set() if purpose == "position" else LENGTHS)
        ignored |= TRAINING if purpose == "validation" else set()
        ignored |= MINI_BATCHES.keys() if search is not None and search.full_probe else set()
        section = as_json(self.config)
        return {key: value for key, value in section.items() if key not in ignored} | {"seed": self.seed}

    def remarks(self, main: str) -> list[str]:
        """A line for every key that is given and is not of all stages.

        Args:
            main: the position whose training the section describes.
        """
        found = []
        if self.config.max_time is not None:
            found.append("trainer.max_time: of every learned position; experts and joint models take all their steps")
        if self.config.callbacks:
            found.append(f"trainer.callbacks: of {main} in fit, and of no other model")
        if self.config.logger not in (None, True):
            found.append(f"trainer.logger: of {main} in fit; all other models are logged in {self.run_dir}/logs")
        return found

    def unusable(self, search: Search, *, say: bool) -> dict[str, Any]:
        """The arguments of a Trainer that a search cannot work with, at their defaults.

        Args:
            search: of a position.
            say: which they are, in one line.
        """
        if not search.full_probe:
            return {}
        found = {key: default for key, default in MINI_BATCHES.items() if self.config[key] not in (default, 0)}
        if found and say:
            keys = ", ".join(f"trainer.{key}" for key in found)
            kind = type(search).__name__
            rank_zero_info(f"  {keys}: for experts only; {kind} takes whole passes over the probe, and its own steps")
        return found

    def make(self, label: str, callbacks: list[Callback], **overrides: Any) -> Trainer:
        """A Trainer for one stage.

        Args:
            label: the stage's name, on its bar and in TensorBoard.
            callbacks: the stage's own.
            overrides: arguments of the Trainer.
        """
        config = self.config.clone()
        config.callbacks = config.logger = None
        arguments = _parser().instantiate(Namespace(trainer=config)).trainer.as_dict()
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


def as_json(part: Any) -> Any:
    """A part of a parsed configuration as JSON has it, nothing in it instantiated."""
    return json.loads(
        json.dumps(part, default=lambda value: vars(value) if isinstance(value, Namespace) else str(value))
    )


@cache
def _parser() -> LightningArgumentParser:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(Trainer, "trainer")
    return parser


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks
