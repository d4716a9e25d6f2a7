"""Looking around in the span of task vectors: objective and scores at many places, and the vectors' geometry."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_app.stages.loading import Loading, is_plain
from lightning_app.stages.merge_stages import Merge, MergeStages
from lightning_app.stages.model import Model
from lightning_app.stages.scorer import Scorer
from lightning_app.stages.stage_graph import Stage, StageGraph, is_main_process
from modules.distributed import barrier
from modules.json_files import read_json, read_kept_json, write_json
from modules.merging import TaskArithmetic
from modules.positioning.task_vectors import gram_matrices, load_task_vectors

FILE = "points.json"
GRAM = "gram.json"


@dataclass(frozen=True)
class Point:
    """What is found at one place.

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


def survey_stage(
    name: str, merge: Merge, places: Sequence[Sequence[float]], stages: MergeStages, scorer: Scorer | None
) -> Stage:
    """A stage that measures at many places; broken off, it goes on at the next one.

    Args:
        name: of the stage.
        merge: the experts and their start; how it merges does not matter.
        places: each with one factor for each task vector.
        stages: builds the merges.
        scorer: scores the places on its tasks; None: only losses are taken.
    """
    linear = replace(
        merge, recipe=replace(merge.recipe, weighting="equal", method=TaskArithmetic(), granularity="model")
    )
    content = {
        **stages.identity(merge),
        **stages.data.probe_content(),
        "places": [list(place) for place in places],
        "trainer": stages.trainers.settings("validation"),
        "tasks": None if scorer is None else scorer.content,
    }

    def run(folder: Path) -> None:
        found = read_points(folder)
        barrier()  # every process has read what is there before it grows
        module = stages.module(linear, signed=True)
        trainer = stages.trainers.make_silent(name)
        data = stages.data.probe()
        for place in places[len(found) :]:
            module.position.stand_at(torch.tensor(place, dtype=torch.float64))
            trainer.validate(module, datamodule=data, verbose=False)
            metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
            losses = {task: metrics[f"val/{task}/loss"] for task in stages.data.probe_weights()}
            scores = {} if scorer is None else scorer.score_encoder(module.encoder, name)
            found.append(Point(list(place), metrics["val/loss"], losses, scores))
            if is_main_process():
                write_points(folder, found)

    scored = 0 if scorer is None else scorer.texts
    texts = len(places) * (2 * stages.data.probe_arguments["validation_size"] + scored)
    return Stage("survey", name, content, run, merge.inputs, texts)


def read_points(folder: Path) -> list[Point]:
    """Read the points that a survey has found so far."""
    return [Point(**point) for point in read_kept_json(folder / FILE, [], "all places are measured", rank_zero_info)]


def write_points(folder: Path, points: Sequence[Point]) -> None:
    """Write the points that a survey has found so far, whole points only."""
    write_json(folder / FILE, [asdict(point) for point in points])


def geometry_stage(name: str, start: Model, models: Sequence[Model], graph: StageGraph, loading: Loading) -> Stage:
    """A stage that takes the Gram matrix of the task vectors of models.

    Args:
        name: of the stage.
        start: what the task vectors are taken against.
        models: N of them.
        graph: knows where they lie.
        loading: how they are loaded.
    """
    given = [model.identity(loading) for model in models]
    content: dict[str, Any] = {"start": start.identity(loading), "given": given}

    def run(folder: Path) -> None:
        if is_main_process():
            base = start.folder(graph)
            folders = {str(i): model.folder(graph) for i, model in enumerate(models)}
            # Whose prompts a merge would have changes no task vector.
            settings_of = next(iter(folders)) if is_plain(base) else "base"
            pooling = loading.options(base)["pooling"]
            vectors = load_task_vectors(loading.load(base), folders, settings_of, pooling, loading.trust_remote_code)
            gram = gram_matrices(vectors, dict.fromkeys(vectors, "model"))[0]
            write_json(folder / GRAM, gram.tolist())

    inputs = tuple(stage for model in (start, *models) for stage in model.inputs)
    return Stage("geometry", name, content, run, inputs)


def read_gram(folder: Path) -> torch.Tensor:
    """``[N, N]`` float64: what `geometry_stage` wrote."""
    return torch.tensor(read_json(folder / GRAM), dtype=torch.float64)
