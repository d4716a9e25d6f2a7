"""The Trainers of all trainings, each made anew from the recipe's ``trainer`` section."""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks import ResumableRun, StageProgressBar
from lightning_app.stages.stage import BESIDE_KEY
from modules import Search, UserError
from modules.errors import first_line

NO_EFFECT = {
    "logger", "profiler", "default_root_dir", "log_every_n_steps", "barebones", "enable_checkpointing",
    "enable_progress_bar", "enable_model_summary", "enable_autolog_hparams", "num_sanity_val_steps", "model_registry",
    "limit_test_batches", "limit_predict_batches", "inference_mode", "detect_anomaly", "use_distributed_sampler",
}  # fmt: skip
"""Keys of the Trainer that do not change what is trained. A new key counts as one that does."""

TRAINING = {
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "limit_train_batches",
    "reload_dataloaders_every_n_epochs", "callbacks",
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

TASK_SCORE = "mteb/"
"""The beginning of the name of a score that `MtebCallback` logs."""


@dataclass(frozen=True)
class TrainerSettings:
    """The arguments of the Trainers of one kind of training.

    Args:
        counted: those that change results, as JSON.
        uncounted: those that change none.
        run_dir: logs go to ``<run_dir>/logs/<label>``.
        seed: of all random numbers of the training.
    """

    counted: Mapping[str, Any]
    uncounted: Mapping[str, Any] = field(metadata=BESIDE_KEY)
    run_dir: str = field(metadata=BESIDE_KEY)
    seed: int

    def make(self, label: str, callbacks: list[Callback], **overrides: Any) -> Trainer:
        """Return a Trainer for one training.

        Args:
            label: the stage's name, on its bar and in its logs.
            callbacks: the stage's own, beside those of the recipe.
            overrides: arguments of the Trainer, objects among them.

        Raises:
            UserError: Lightning refuses the arguments.
        """
        arguments = self._arguments() | overrides
        given = _listed(arguments.pop("callbacks", None))
        arguments["logger"] = self._loggers(arguments["logger"], label)
        if arguments["default_root_dir"] is None:
            arguments["default_root_dir"] = self.run_dir
        if arguments["enable_checkpointing"] is None:
            # The stage keeps its own checkpoint; Lightning's would be a second.
            arguments["enable_checkpointing"] = any(isinstance(callback, Checkpoint) for callback in given)
        if arguments["enable_model_summary"] is None:
            arguments["enable_model_summary"] = False
        bar = [StageProgressBar(label)] if arguments["enable_progress_bar"] is not False else []
        try:
            return Trainer(**arguments, callbacks=[*bar, *callbacks, *given])
        except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"trainer: Lightning refuses its keys ({first_line(error)})") from error

    def make_silent(self, label: str) -> Trainer:
        """Return a Trainer that only validates: it neither logs nor draws."""
        return self.make(label, [], logger=False, enable_progress_bar=False)

    def fit(self, trainer: Trainer, module: LightningModule, data: LightningDataModule) -> None:
        """Train, from the last checkpoint of the Trainer's `ResumableRun` if there is one.

        Raises:
            Interrupted: the user stopped it.
        """
        run = next(callback for callback in _callbacks(trainer) if isinstance(callback, ResumableRun))
        trainer.fit(module, datamodule=data, ckpt_path=run.checkpoint, weights_only=True)
        run.raise_if_interrupted()
        finish_loggers(trainer)
        if trainer.is_global_zero:
            Path(run.path).unlink(missing_ok=True)

    @property
    def device(self) -> torch.device:
        """The device of a process of these Trainers."""
        return self.make_silent("device").strategy.root_device

    def seed_all(self) -> None:
        """Set all random numbers to the seed, so that a result does not depend on which stages ran before it."""
        seed_everything(self.seed, workers=True, verbose=False)

    def _arguments(self) -> dict[str, Any]:
        """The arguments, with what has a ``class_path`` as objects."""
        section = {**self.counted, **self.uncounted}
        logger = section.pop("logger", None)
        parsed = _parser().parse_object({"trainer": section}, defaults=True)
        arguments: dict[str, Any] = _parser().instantiate(parsed).trainer.as_dict()
        return arguments | {"logger": logger}

    def _loggers(self, given: Any, label: str) -> Any:
        """TensorBoard, in a folder of the training's own, or the recipe's loggers, each under the training's name."""
        if given is False or isinstance(given, Logger):
            return given
        if given in (None, True):
            return TensorBoardLogger(self.run_dir, name="logs", version=label)
        wanted = [_named(logger, label, self.run_dir) for logger in _listed(given)]
        return _parser().instantiate(_parser().parse_object({"trainer": {"logger": wanted}})).trainer.logger


@dataclass(frozen=True)
class SharedTrainer:
    """The recipe's ``trainer`` section, as every training takes its part of it.

    Args:
        section: as parsed, as JSON, nothing in it instantiated.
        run_dir: logs go to ``<run_dir>/logs/<label>``.
        seed: of all random numbers.
    """

    section: Mapping[str, Any]
    run_dir: str
    seed: int

    def of_expert(self, own: Mapping[str, Any]) -> TrainerSettings:
        """Return the settings of an expert's training, or of a joint model's.

        Args:
            own: keys of the Trainer that its recipe gives.
        """
        counted = self._counted() | dict(own)
        return self._settings(counted | {"callbacks": self._callbacks(scored=False)})

    def of_position(self, own: Mapping[str, Any], search: Search, *, scored: bool) -> TrainerSettings:
        """Return the settings of a position's training.

        Args:
            own: keys of the Trainer that the section ``position`` gives, or a merge.
            search: of the position.
            scored: whether MTEB tasks are scored while it is trained.
        """
        counted = self._counted() | dict(own)
        if search.full_probe:
            counted |= MINI_BATCHES
        return self._settings(counted | {"callbacks": self._callbacks(scored=scored)})

    def of_validation(self) -> TrainerSettings:
        """Return the settings of stages that only take losses."""
        return self._settings(self._counted(without=TRAINING) | {"max_epochs": 1})

    def unusable(self, own: Mapping[str, Any], search: Search) -> list[str]:
        """Return the keys that are given and that a position's search has no use for."""
        if not search.full_probe:
            return []
        given = {**self.section, **own}
        return [key for key, default in MINI_BATCHES.items() if given.get(key) not in (default, None, 0)]

    def following_scores(self) -> list[str]:
        """Return the class names of the callbacks that go by a score on a test task, each with what it follows."""
        return [
            f"{name.rsplit('.', 1)[-1]} follows {follows}"
            for name, follows in ((c["class_path"], _follows(c)) for c in _listed(self.section.get("callbacks")))
            if follows.startswith(TASK_SCORE)
        ]

    def _counted(self, without: Collection[str] = ()) -> dict[str, Any]:
        return {key: value for key, value in self.section.items() if key not in {*NO_EFFECT, *without}}

    def _callbacks(self, *, scored: bool) -> list[dict[str, Any]]:
        """The callbacks of the section; one that follows a score can only be where scores are taken."""
        given = _listed(self.section.get("callbacks"))
        return [callback for callback in given if scored or not _follows(callback).startswith(TASK_SCORE)]

    def _settings(self, counted: dict[str, Any]) -> TrainerSettings:
        uncounted = {key: value for key, value in self.section.items() if key in NO_EFFECT}
        return TrainerSettings(counted, uncounted, self.run_dir, self.seed)


def finish_loggers(trainer: Trainer) -> None:
    """End what a logger would go on with in the next training of this process, as Weights & Biases does."""
    for logger in trainer.loggers:
        finish = getattr(getattr(logger, "experiment", None), "finish", None)
        if trainer.is_global_zero and callable(finish):
            finish()


def say_unusable(keys: list[str], search: Search) -> None:
    """Say in one line which keys of the section a position's search has no use for."""
    if keys:
        named = ", ".join(f"trainer.{key}" for key in keys)
        kind = type(search).__name__
        rank_zero_info(f"  {named}: for experts only; {kind} takes whole passes over the probe, and its own steps")


def _named(logger: dict[str, Any], label: str, run_dir: str) -> dict[str, Any]:
    """A logger of the recipe under the name of a training, in the run folder, unless the recipe says otherwise."""
    module, _, name = logger["class_path"].rpartition(".")
    kind = getattr(import_module(module), name)
    known = inspect.signature(kind.__init__).parameters
    # A version of Weights & Biases is an id, which is taken once; its name is what is shown.
    by_name = {"name": label} if "project" in known else {"name": "logs", "version": label}
    own = {"save_dir": run_dir, **by_name}
    given = {key: value for key, value in (logger.get("init_args") or {}).items() if value is not None}
    defaults = {key: known[key].default for key in own if key in known}
    told = {key: value for key, value in given.items() if value != defaults.get(key)}
    return {**logger, "init_args": given | {k: v for k, v in own.items() if k in known} | told}


def _follows(callback: Mapping[str, Any]) -> str:
    return str((callback.get("init_args") or {}).get("monitor"))


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


@cache
def _parser() -> LightningArgumentParser:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(Trainer, "trainer")
    return parser


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks
