"""The stage that learns where in the span of task vectors a merge stands (Self Positioning, arXiv 2410.15035)."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks import CoefficientTrace, CostMeter, ProbeTrace, ResumableRun
from lightning_app.stages.merge_inputs import MergeInputs
from lightning_app.stages.model import Model
from lightning_app.stages.probe_rows import ProbeRows
from lightning_app.stages.stage import BESIDE_KEY, ResultFolders, Stage
from lightning_app.stages.train import BACKWARD
from lightning_app.stages.trainer_settings import TrainerSettings, say_unusable
from modules import MergeModule, Search, UserError
from modules.json_files import read_json, write_json

POSITION = "position.json"
"""What a stage that merges found."""

CHECKPOINT = "last.ckpt"
"""The position as a Lightning checkpoint; it holds no weights."""


@dataclass(frozen=True)
class Learn(Stage):
    """A position that is learned on the probe; the merged model is in the folder ``model`` of the result.

    Args:
        name: of the merge.
        merge: what is merged.
        search: how the numbers are found.
        mu: weight of the scale in the objective.
        pull: weight of the distance of the coefficients from their start.
        settled: see `MergeModule`.
        initial: the learned merge whose position is the start for the experts that both have.
        probe: the rows.
        trainer: of this training.
        watch: makes the callbacks that only look on; those that are followed are part of the key with the scores.
        followed: what the scores depend on that a callback of the recipe follows.
        unusable: keys of the Trainer that the search has no use for.
    """

    kind = "position"

    merge: MergeInputs
    search: Search
    mu: float
    pull: float
    settled: float
    probe: ProbeRows
    trainer: TrainerSettings
    initial: Model | None = None
    followed: Any = None
    watch: Callable[[], list[Callback]] = field(default=list, repr=False, metadata=BESIDE_KEY)
    unusable: tuple[str, ...] = field(default=(), metadata=BESIDE_KEY)

    @property
    def steps(self) -> int:
        """About how many optimiser steps the search takes at most."""
        counted = self.trainer.counted
        if counted.get("max_steps", -1) > 0:
            return int(counted["max_steps"])
        return int((counted.get("max_epochs") or 1) * (1 if self.search.full_probe else self.probe.batches))

    @property
    def texts(self) -> int:
        """About how many texts pass through the model."""
        return 2 * BACKWARD * self.steps * self.probe.batch_size

    def module(self, graph: ResultFolders) -> MergeModule:
        """Return the merge at the start of its search; its experts must be made already."""
        options = {"search": self.search, "mu": self.mu, "pull": self.pull, "settled": self.settled}
        module = self.merge.module(graph, **options)
        if self.initial is not None:
            module.start_from(position_of(self.initial, graph))
        return module

    def run(self, folder: Path, graph: ResultFolders) -> None:
        """Learn the position, from where an interrupted search was, and save model, checkpoint and numbers."""
        say_unusable(list(self.unusable), self.search)
        module = self.module(graph)
        # The checkpoint to go on from, which may be written after a validation, knows that validation's losses.
        callbacks = [ProbeTrace(folder), ResumableRun(folder), CoefficientTrace(folder), CostMeter(folder)]
        callbacks += self.watch()
        trainer = self.trainer.make(self.name, callbacks, num_sanity_val_steps=0)
        self.trainer.seed_all()
        self.trainer.fit(trainer, module, self.probe.data())
        rank_zero_info(f"  {module.best.ending}")
        trainer.save_checkpoint(folder / CHECKPOINT, weights_only=True)
        if trainer.is_global_zero:
            module.save(folder / "model")
            found = {
                "objective": module.best.objective,
                "passes": module.passes,
                "history": module.best.history,
                "ending": asdict(module.best.ending),
                "position": module.describe_position(),
                "mean_position": module.mean_position(),
                "coefficients": module.coefficients_by_group(),
            }
            write_json(folder / POSITION, found)


def position_of(model: Model, graph: ResultFolders) -> dict[str, float]:
    """Return the numbers of a learned merge, by name.

    Raises:
        UserError: the model is no learned merge.
    """
    if not isinstance(model.stage, Learn):
        raise UserError(f"'{model.name}' is no learned merge: there is no position to start from")
    position: dict[str, float] = read_json(graph.folder(model.stage) / POSITION)["position"]
    return position
