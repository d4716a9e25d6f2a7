"""Costs of a training, whatever the machine: steps, examples, floating-point operations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.flop_counter import FlopCounter
from callbacks.flops_by_length import FlopsByLength, Kind, Size, kind_of, size_of
from modules.distributed import world_size
from modules.json_files import write_json
from modules.losses.task_batch import TaskBatch
from modules.merge_module import MergeModule


class CostMeter(Callback):
    """Writes ``cost.json``: ``steps``, ``examples``, ``flops`` and ``validation_flops`` of a run, over all processes.

    FLOPs are those of all matrix products and attentions, forward and backward, that a `FlopCounter` sees in a step.
    Watching a step takes time, so only those are watched that do not follow from earlier ones, see `FlopsByLength`: a
    few of each loss.

    - ``steps``: optimiser steps.
    - ``examples``: rows of the training batches, micro-batches included; where a search evaluates them several times
      in a step, each time.
    - ``flops``: of the training steps.
    - ``validation_flops``: of the validations within ``fit``, and of what a `MergeModule` measures before its start.

    A run that was stopped and resumed gives the numbers of one that was not. ``fast_dev_run`` writes no file.

    Args:
        folder: of the file.

    Example:
        >>> Trainer(callbacks=[CostMeter("run")]).fit(module, datamodule=data)
        >>> json.load(open("run/cost.json"))["flops"]
    """

    FILE = "cost.json"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._counter: FlopCounter | None = None
        self._passes = 0
        self._step: tuple[Kind, Size]
        self._reset()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start at nothing; a checkpoint is loaded after this."""
        if stage == "fit":
            self._reset()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go before the other callbacks, so that their work at the end of a batch is not counted; watch the start."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = [self, *(callback for callback in callbacks if callback is not self)]  # type: ignore[attr-defined]
        self._watch()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End watching the start; the sanity check itself is not counted."""
        self._here["validation_flops"] += self._stop_watching()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End watching the start."""
        self._here["validation_flops"] += self._stop_watching()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Watch, if need be."""
        self._passes = _forward_passes(pl_module)
        self._begin("train", _batches(batch))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        batches = _batches(batch)
        times = 1
        if isinstance(pl_module, MergeModule):
            times = (_forward_passes(pl_module) - self._passes) // len(batches)
        self._here["examples"] += times * sum(map(len, batches))
        self._here["flops"] += self._end(times)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Watch, if need be."""
        if _validates_within_fit(trainer):
            self._begin("validation", _batches(batch))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch."""
        if _validates_within_fit(trainer):
            self._here["validation_flops"] += self._end()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file; also where a resumed run finds that it had ended, and does not start to train."""
        self._stop_watching()
        cost = {"steps": trainer.global_step} | self._totals()
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / self.FILE, cost)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Watch no longer."""
        self._stop_watching()

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of all processes, and the steps watched. Every process has to call it."""
        return {"counts": self._totals(), "known": self._known.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the counts of a checkpoint."""
        self._before = state_dict["counts"]
        self._known.load_state_dict(state_dict["known"])

    def _reset(self) -> None:
        self._known = FlopsByLength()
        self._here = {"examples": 0, "flops": 0, "validation_flops": 0}
        """Counts of this process, since the run was started or resumed."""
        self._before = dict.fromkeys(self._here, 0)
        """Counts of all processes, before the run was resumed."""

    def _totals(self) -> dict[str, int]:
        here = _sum_over_processes(self._here)
        return {name: self._before[name] + count for name, count in here.items()}

    def _begin(self, phase: str, batches: list[TaskBatch]) -> None:
        self._step = (phase, *kind_of(batches)), size_of(batches)
        if self._known(*self._step) is None:
            self._watch()

    def _end(self, times: int = 1) -> int:
        """Return the FLOPs of the step that was begun, and went `times` through its batches."""
        if self._counter is not None:
            counted = self._stop_watching()
            if times:
                # Of a search's own arithmetic, N + 1 numbers, every time gets its part.
                self._known.add(*self._step, counted // times)
        return times * (self._known(*self._step) or 0)

    def _watch(self) -> None:
        self._counter = FlopCounter()
        self._counter.__enter__()

    def _stop_watching(self) -> int:
        """Return the FLOPs since `_watch`; 0 if nothing is watched."""
        counter, self._counter = self._counter, None
        if counter is None:
            return 0
        counter.__exit__(None, None, None)
        return counter.flops


def _batches(batch: TaskBatch | Sequence[TaskBatch]) -> list[TaskBatch]:
    return [batch] if isinstance(batch, TaskBatch) else list(batch)


def _forward_passes(pl_module: LightningModule) -> int:
    return pl_module.passes["forward"] if isinstance(pl_module, MergeModule) else 0


def _validates_within_fit(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def _sum_over_processes(counts: Mapping[str, int]) -> dict[str, int]:
    everyone: list[Any] = [counts]
    if world_size() > 1:
        everyone = [None] * world_size()
        dist.all_gather_object(everyone, counts)
    return {name: sum(each[name] for each in everyone) for name in counts}
