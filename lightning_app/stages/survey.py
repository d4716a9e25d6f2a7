"""The stage that looks around in the span of task vectors: objective and scores at many places."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_app.stages.merge_inputs import MergeInputs
from lightning_app.stages.probe_rows import ProbeRows
from lightning_app.stages.scorer import Scorer
from lightning_app.stages.stage import ResultFolders, Stage
from lightning_app.stages.trainer_settings import TrainerSettings
from modules.distributed import barrier, is_main_process
from modules.json_files import read_kept_json, write_json
from modules.merging import TaskArithmetic

FILE = "points.json"


@dataclass(frozen=True)
class Point:
    """The losses and scores at a place.

    Args:
        c: factor of each task vector.
        objective: on the probe-validation rows, relative to the base's, without regulariser.
        losses: data set to mean loss there.
        scores: MTEB task to main score x 100; empty if it was not scored.
    """

    c: list[float]
    objective: float
    losses: dict[str, float]
    scores: dict[str, float]


@dataclass(frozen=True)
class Survey(Stage):
    """Losses, and scores, at many places in the span of task vectors; broken off, it goes on at the next place.

    Args:
        name: of the stage.
        merge: the experts and their start; how it merges does not matter.
        places: each with one factor per task vector.
        probe: the rows.
        trainer: takes the losses.
        scorer: scores the places on its tasks; None: only losses are taken.
    """

    kind = "survey"

    merge: MergeInputs
    places: tuple[tuple[float, ...], ...]
    probe: ProbeRows
    trainer: TrainerSettings
    scorer: Scorer | None = None

    @classmethod
    def of(
        cls,
        name: str,
        merge: MergeInputs,
        places: Sequence[Sequence[float]],
        probe: ProbeRows,
        trainer: TrainerSettings,
        scorer: Scorer | None = None,
    ) -> "Survey":
        """Return the survey of a merge whose task vectors are added up, each times its factor."""
        linear = replace(merge, method=TaskArithmetic(), granularity="model", signed=True)
        return cls(name, linear, tuple(map(tuple, places)), probe, trainer, scorer)

    @property
    def texts(self) -> int:
        """About how many texts pass through the model."""
        scored = 0 if self.scorer is None else self.scorer.texts
        return len(self.places) * (self.probe.validation_texts + scored)

    def run(self, folder: Path, graph: ResultFolders) -> None:
        """Measure the places that are not measured yet."""
        found = read_points(folder)
        barrier()  # every process has read what is there before it grows
        module = self.merge.module(graph)
        trainer = self.trainer.make_silent(self.name)
        data = self.probe.data()
        for place in self.places[len(found) :]:
            module.position.stand_at(torch.tensor(place, dtype=torch.float64))
            trainer.validate(module, datamodule=data, verbose=False)
            metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
            losses = {task: metrics[f"val/{task}/loss"] for task in self.probe.names}
            scores = {} if self.scorer is None else self.scorer.score_encoder(module.encoder, self.name)
            found.append(Point(list(place), metrics["val/loss"], losses, scores))
            if is_main_process():
                write_points(folder, found)


def read_points(folder: Path) -> list[Point]:
    """Read the points that a survey has found so far."""
    return [Point(**point) for point in read_kept_json(folder / FILE, [], "all places are measured", rank_zero_info)]


def write_points(folder: Path, points: Sequence[Point]) -> None:
    """Write the points that a survey has found so far, whole points only."""
    write_json(folder / FILE, [asdict(point) for point in points])
