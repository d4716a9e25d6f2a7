"""The results of every kind of stage, as they were recorded: a change of results needs a new version of the stage.

A stage that is done is not made again because its code has changed, unless its ``version`` is raised. When a test here
fails, and the new results are right, raise the version of the class and record them:

    RECORD_STAGES=1 python -m pytest tests/test_stage_versions.py
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lightning_app
from lightning_app.recipe.recipe_parser import parse
from lightning_app.stages.geometry import Geometry, read_gram
from lightning_app.stages.held_out import HeldOut, read_held_out
from lightning_app.stages.learn import POSITION
from lightning_app.stages.probe import METRICS, Probe
from lightning_app.stages.probe_score import ProbeScore, read_probe_scores
from lightning_app.stages.recipe_models import RecipeModels
from lightning_app.stages.score import Score, read_scores
from lightning_app.stages.stage import Stage
from lightning_app.stages.stage_graph import StageGraph
from lightning_app.stages.survey import Survey, read_points
from lightning_app.verbs.recipe_run import RecipeRun
from modules import TextEncoder
from modules.json_files import read_json
from tests.conftest import Project
from tests.tiny_mirror import write_sts

RECORD = Path(__file__).with_name("stage_results.json")
TEXTS = ["a red cat", "the blue dog runs"]


def all_kinds() -> set[str]:
    """The names of all stage classes of the application."""

    def below(kind: type[Stage]) -> Iterator[type[Stage]]:
        for other in kind.__subclasses__():
            yield other
            yield from below(other)

    return {kind.__name__ for kind in below(Stage) if kind.__module__.startswith(lightning_app.__name__)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, list[float]]]:
    """Name of each stage class to its version and the results of one stage of it."""
    project = Project(tmp_path_factory.mktemp("versions"))
    write_sts(project.folder)
    content = project.content()
    content["mteb"] = {"tasks": ["STSBenchmark"], "data_root": str(project.folder)}
    content["merges"] = {"half": {"weighting": "equal", "scales": [0.5, 1.0]}}
    project.write(content)
    run = RecipeRun(parse("fit", ["--config", str(project.recipe)]))
    graph, models = StageGraph(project.run_dir), run.models
    stages = stages_of(run, models)
    graph.run_all(stages)
    return {type(stage).__name__: (stage.version, results(stage, graph.folder(stage))) for stage in stages}


def stages_of(run: RecipeRun, models: RecipeModels) -> list[Stage]:
    """One stage of each class."""
    probe, validation, qa = models.data.probe(), models.trainer.of_validation(), models.model("qa")
    learned, half = models.learned("self_positioning"), models.model("half").stage
    assert qa.stage is not None and half is not None
    return [
        qa.stage,
        learned,
        half,
        Score("qa", qa, run.scorer()),
        Probe("qa", qa, probe, validation),
        ProbeScore("qa", qa, probe, validation),
        Survey.of("look", learned.merge, [[0.5, 0.5]], probe, validation),
        HeldOut("qa", qa, probe, validation),
        Geometry("all", models.base, (qa, models.model("sts"))),
    ]


def results(stage: Stage, folder: Path) -> list[float]:
    """Return the numbers that a stage found."""
    found: list[Any] = []
    if (folder / "model").is_dir():
        found += TextEncoder.load(folder / "model").encode(TEXTS)[:, :6].flatten().tolist()
    if (folder / POSITION).is_file():
        found += read_json(folder / POSITION)["position"].values()
    if isinstance(stage, Score):
        found += read_scores(folder).values()
    if isinstance(stage, Probe):
        found += read_json(folder / METRICS).values()
    if isinstance(stage, ProbeScore):
        found += read_probe_scores(folder).values()
    if isinstance(stage, Survey):
        found += [read_points(folder)[0].objective]
    if isinstance(stage, HeldOut):
        found += [value for measured in read_held_out(folder).values() for value in measured.metrics.values()]
    if isinstance(stage, Geometry):
        found += read_gram(folder).flatten().tolist()
    return [float(number) for number in found]


@pytest.fixture(scope="module")
def record(made: dict[str, tuple[int, list[float]]]) -> dict[str, dict[str, Any]]:
    """The record, made anew if that is asked for."""
    if os.environ.get("RECORD_STAGES"):
        kept = {name: {"version": version, "results": found} for name, (version, found) in sorted(made.items())}
        RECORD.write_text(json.dumps(kept, indent=1) + "\n")
    found: dict[str, dict[str, Any]] = json.loads(RECORD.read_text())
    return found


def test_every_kind_of_stage_is_recorded(record: dict[str, dict[str, Any]]) -> None:
    assert set(record) == all_kinds()


@pytest.mark.parametrize("kind", sorted(all_kinds()))
def test_results_are_those_of_the_version(
    made: dict[str, tuple[int, list[float]]], record: dict[str, dict[str, Any]], kind: str
) -> None:
    version, found = made[kind]
    assert version == record[kind]["version"], f"record the results of {kind} {version}, see above"
    assert found == pytest.approx(record[kind]["results"], rel=2e-3, abs=2e-4), f"raise {kind}.version"
