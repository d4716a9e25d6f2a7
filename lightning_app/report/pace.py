"""The time that stages take on this machine, from a few real training steps on rows of each data set."""

import logging
import time
from functools import cached_property
from itertools import islice
from statistics import median
from typing import Any

import torch
from lightning import Callback, Trainer

from callbacks.mteb.task_texts import task_texts
from datamodules import SplitTask, TaskDataModule
from lightning_app.report.dry_run import TIMED, seconds_per_text, time_per_text
from lightning_app.stages.learn import Learn
from lightning_app.stages.recipe_models import RecipeModels
from lightning_app.stages.score import Score
from lightning_app.stages.scorer import Scorer
from lightning_app.stages.stage import Stage
from lightning_app.stages.train import BACKWARD, Train
from modules import ContrastiveModule
from modules.quiet_loggers import quiet_loggers

STEPS = 5
"""Training steps that are timed for each data set; the first, which warms up, does not count."""

BUDGET = 20
"""Seconds after which no further step is timed."""

PASSES = 13
"""Passes over the probe that a search on the whole probe takes until it has settled: 6 to 19 in docs/search.md."""


class Pace:
    """Estimates the seconds of stages; each data set is timed once, when it is first asked about.

    Args:
        models: of the recipe; the base is trained for a few steps, in a process of its device, and thrown away.
    """

    def __init__(self, models: RecipeModels) -> None:
        self._base, self._data, self._seed = models.base, models.data, models.seed
        self._trainer = models.trainer.of_validation()  # without callbacks, which may write files
        self._device = self._trainer.device
        self._rows: dict[tuple[str, int | None], float] = {}
        self._scored: dict[int, float] = {}

    def seconds(self, stage: Stage) -> float:
        """Return about how long a stage takes, its loading and saving of models included."""
        if isinstance(stage, Train):
            return 2 * self._loading + self._training(stage)
        if isinstance(stage, Learn):
            return (2 + len(stage.merge.experts)) * self._loading + self._learning(stage)
        if isinstance(stage, Score):
            return self._loading + stage.texts * self._per_scored_text(stage.scorer)
        return 3 * self._loading + stage.texts * self.per_text

    def _training(self, stage: Train) -> float:
        training = stage.training
        tasks = stage.tasks
        weights = [len(task.expert) if task.share is None else task.share for task in tasks]
        rows = [self._per_row(task, training.batch_size, training.max_length) for task in tasks]
        row = sum(weight * seconds for weight, seconds in zip(weights, rows, strict=True)) / sum(weights)
        validation = sum(len(task.validation) * seconds for task, seconds in zip(tasks, rows, strict=True))
        validations = 1 if training.validate_every is None else training.max_steps // training.validate_every
        batches = training.max_steps * (stage.trainer.counted.get("accumulate_grad_batches") or 1)
        return batches * training.batch_size * row + validations * validation / BACKWARD

    def _learning(self, stage: Learn) -> float:
        """Return the seconds of the passes over the probe, each with a validation after it."""
        probe = stage.probe
        size, length = int(probe.arguments["size"]), probe.arguments["max_length"]
        passes = min(stage.steps, PASSES) if stage.search.full_probe else stage.steps / probe.batches
        total = sum(probe.weights.values())
        seconds = 0.0
        for task in probe.tasks:
            rows = size * probe.weights[task.name] / total + len(task.validation) / BACKWARD
            seconds += passes * rows * self._per_row(task, probe.batch_size, length)
        return seconds

    def _per_row(self, task: SplitTask, batch_size: int, max_length: int | None) -> float:
        """Return the seconds that a row costs in training, timed at the first call."""
        key = task.name, max_length
        if key not in self._rows:
            size = min(batch_size, len(task.expert))
            data = TaskDataModule([task], batch_size=size, max_length=max_length, seed=self._seed)
            self._rows[key] = self._step_seconds(data) / size
        return self._rows[key]

    def _step_seconds(self, data: TaskDataModule) -> float:
        times = StepTimes()
        trainer = self._trainer.make(
            "timing",
            [times],
            logger=False,
            enable_progress_bar=False,
            devices=1,
            strategy="auto",
            max_steps=STEPS,
            max_epochs=-1,
            limit_val_batches=0,
        )
        with quiet_loggers("lightning.pytorch", level=logging.WARNING):  # of a training that is thrown away
            trainer.fit(self._module(), datamodule=data)
        return times.seconds

    def _module(self) -> ContrastiveModule:
        assert self._base.path is not None
        return ContrastiveModule(self._base.path, **self._base.loading.options(self._base.path))

    @cached_property
    def _loading(self) -> float:
        """The seconds that a model takes to be loaded; once more, and it is saved."""
        started = time.perf_counter()
        self._module()
        return time.perf_counter() - started

    @cached_property
    def per_text(self) -> float:
        """The seconds that the base needs to embed a text of the probe, as long as the probe takes it."""
        rows = [task.probe for task in self._data.probe_tasks()] or [t.expert for t in self._data.tasks.values()]
        return time_per_text(self._base, rows, self._device, self._data.probe_arguments["max_length"])

    def _per_scored_text(self, scorer: Scorer) -> float:
        """Return the seconds that a text of the tasks takes to be embedded."""
        if id(scorer) not in self._scored:
            texts = (ways[-1] for task in scorer.mteb.load() for ways in task_texts(task))
            some = list(islice(texts, 0, None, max(1, scorer.texts // TIMED)))[:TIMED]
            self._scored[id(scorer)] = seconds_per_text(self._base, some, self._device)
        return self._scored[id(scorer)]


class StepTimes(Callback):
    """Notes when training began, and when each of its steps had ended."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Note the beginning."""
        self._note(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Note the end of a step; that is the last where there is no time for more."""
        self._note(trainer)
        trainer.should_stop = self._ends[-1] - self._ends[0] > BUDGET

    def _note(self, trainer: Trainer) -> None:
        if trainer.strategy.root_device.type != "cpu":
            torch.accelerator.synchronize()
        self._ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """The seconds of a step, its batch included; the first counts where there is no other."""
        steps = [end - start for start, end in zip(self._ends, self._ends[1:], strict=False)]
        return median(steps[1:] or steps)
