"""Scores of MTEB tasks in the middle of training."""

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.mteb.mteb_encoder import MtebEncoder
from callbacks.mteb.task_evaluation import averages, evaluate_tasks
from callbacks.mteb.task_loading import load_tasks
from callbacks.mteb.task_prompts import check_prompts
from callbacks.mteb.task_selection import TaskSelection
from callbacks.resumable_run import was_interrupted
from modules.encoding.precisions import PRECISIONS
from modules.encoding.tokenized_texts import TokenizedTexts
from modules.errors import UserError

if TYPE_CHECKING:
    from mteb import AbsTask


class MtebCallback(Callback):
    """Scores ``pl_module.encoder`` while it is trained.

    ``mteb/<task>``, ``mteb/average/<type>`` and ``mteb/average``, main scores x 100, go to the loggers, the progress
    bar and ``trainer.callback_metrics``, where ``ModelCheckpoint`` and ``EarlyStopping`` find them; they are the same
    on every process. Training goes on as if nothing had happened: random numbers and the train mode are restored.

    Test tasks are not watched unless that is asked for: give at least one of ``every_n_epochs``, ``every_n_steps``,
    ``at_start`` and ``at_end``. In a recipe, tasks without a schedule are scored once the models are finished.

    Args:
        tasks: names of tasks. The data of all tasks is read before training starts.
        types: types of tasks, ``[STS, Retrieval]``: all of the benchmark, or without one all that mteb has.
        benchmark: name of a benchmark, ``MTEB(eng, v2)``.
        languages: ISO 639-3 codes; empty: all.
        max_examples: keep at most so many examples (or queries) of a task; null: all.
        max_corpus: keep at most so many documents of a retrieval task, and the queries that they answer; null: all.
        prompts: by task, type or side, ``{Retrieval-query: "query: "}``; they win over the model's own.
        every_n_epochs: epochs from one evaluation to the next; ``fast_dev_run`` evaluates its only epoch; null: never.
        every_n_steps: optimiser steps from one evaluation to the next; null: never.
        at_start: also score the model before its first step.
        at_end: also score the model after its last step.
        data_root: folder with copies of hub data sets, see ``load_tasks``.
        batch_size: texts in one forward pass, on each process.
        precision: what the model computes in while it is scored: float32, or bfloat16, which is faster where the device
            has it and changes the scores a little.

    Raises:
        UserError: a setting is out of range; in ``fit``, no task or no schedule is given, or a task cannot be read.

    Example:
        >>> watch = MtebCallback(tasks=["STSBenchmark"], every_n_epochs=1)
        >>> best = ModelCheckpoint(monitor="mteb/average", mode="max")
        >>> Trainer(callbacks=[watch, best])
    """

    def __init__(
        self,
        tasks: list[str] | None = None,
        types: list[str] | None = None,
        benchmark: str | None = None,
        languages: list[str] | None = None,
        max_examples: int | None = None,
        max_corpus: int | None = None,
        prompts: dict[str, str] | None = None,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        at_start: bool = False,
        at_end: bool = False,
        data_root: str | None = None,
        batch_size: int = 64,
        precision: str = "float32",
    ) -> None:
        for key, value in {"every_n_epochs": every_n_epochs, "every_n_steps": every_n_steps}.items():
            if value is not None and value < 1:
                raise UserError(f"mteb.{key}: {value} is not a positive number of {key.removeprefix('every_n_')}")
        if precision not in PRECISIONS:
            raise UserError(f"mteb.precision: '{precision}' is unknown; use {' or '.join(PRECISIONS)}")
        self.selection = TaskSelection(tasks or [], types or [], benchmark, languages or [], max_examples, max_corpus)
        self.prompts = prompts or {}
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.at_start = at_start
        self.at_end = at_end
        self.data_root = data_root
        self.batch_size = batch_size
        self.precision = precision
        self._tokenized = TokenizedTexts()
        self._loaded: list[AbsTask] = []
        self._scored_step: int | None = None

    @property
    def scheduled(self) -> bool:
        """True if there are tasks, and a time in training at which they are scored."""
        return bool(self.selection and (self.every_n_epochs or self.every_n_steps or self.at_start or self.at_end))

    def load(self) -> "list[AbsTask]":
        """Return the tasks with their data.

        Raises:
            UserError: a task is unknown or has no data, or a prompt is unknown.
        """
        check_prompts(self.prompts)
        return load_tasks(self.selection, self.data_root)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the tasks, and go before the callbacks that may follow the scores."""
        if stage == "fit":
            self._refuse_idle()
            self._loaded = self.load()
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            trainer.callbacks = [self, *(callback for callback in callbacks if callback is not self)]  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the start."""
        self._scored_step = None
        if self.at_start:
            self._score(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Evaluate if enough steps were taken, but not again while gradients are accumulated."""
        step = trainer.global_step
        if self.every_n_steps and step and step % self.every_n_steps == 0:
            self._score(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate if enough epochs have passed."""
        epochs = self.every_n_epochs
        due = epochs and ((trainer.current_epoch + 1) % epochs == 0 or bool(trainer.fast_dev_run))  # type: ignore[attr-defined]
        # An epoch that was broken off by a signal ends here too, and its user does not want to wait.
        if due and (trainer.is_last_batch or trainer.global_step == trainer.max_steps):
            self._score(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the end, unless a signal brought it about."""
        if self.at_end and not was_interrupted(trainer):
            self._score(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the tokens of all texts."""
        self._tokenized = TokenizedTexts()

    def _refuse_idle(self) -> None:
        """Raise a UserError if this callback would never score anything."""
        if not self.selection:
            raise UserError("MtebCallback: no tasks are given; name them in tasks, types or benchmark")
        if not self.scheduled:
            schedule = "every_n_epochs=1, every_n_steps=..., at_start=True or at_end=True"
            raise UserError(f"MtebCallback: no schedule is given, so nothing would be scored; give {schedule}")

    def _score(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate and publish, once a step. Every process enters, since the texts are shared out over them."""
        step = trainer.global_step
        if step == self._scored_step:
            return
        self._scored_step = step
        encoder = MtebEncoder(
            pl_module.encoder,  # type: ignore[arg-type]
            revision=f"step-{step}",
            prompts=self.prompts,
            precision=self.precision,
            tokenized=self._tokenized,
        )
        scores = evaluate_tasks(encoder, self._loaded, batch_size=self.batch_size)
        metrics = {f"mteb/{name}": score for name, score in (scores | averages(self._loaded, scores)).items()}
        # `log_dict` would keep them from the loggers at most steps, and from everyone at the start and at the end.
        trainer.callback_metrics.update({name: torch.tensor(score) for name, score in metrics.items()})
        trainer.progress_bar_metrics.update(metrics)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
