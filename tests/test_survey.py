"""Looking around: what a broken-off survey keeps, and what geometry says."""

from pathlib import Path

import pytest
import torch
from lightning import Trainer

from lightning_app.__main__ import main
from lightning_app.recipe.recipe_settings import read_settings
from lightning_app.stages.loading import Loading
from lightning_app.stages.model import Model
from lightning_app.stages.pipeline import Pipeline
from lightning_app.stages.stage_graph import StageGraph
from lightning_app.stages.survey import geometry_stage, read_gram, read_points, survey_stage, write_points
from lightning_app.stages.trainers import TrainerFactory
from lightning_app.verbs.study import StudyCLI
from modules import TextEncoder
from tests.conftest import Project
from tests.tiny_encoder import tiny_encoder


def pipeline_of(project: Project) -> Pipeline:
    section = StudyCLI(["--config", str(project.recipe)]).section
    trainers = TrainerFactory(section.trainer, section.run_dir, int(section.seed_everything))
    return Pipeline(read_settings(section), trainers, StageGraph(section.run_dir))


def test_a_survey_goes_on_at_the_point_where_it_was_broken_off(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four places two are there; the others are measured, and all are as without the break."""
    project.write(project.content() | {"baselines": []})
    assert main(["fit", "--config", str(project.recipe)]) == 0
    pipeline = pipeline_of(project)
    places = [[0.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    stage = survey_stage("look", pipeline.merge("self_positioning"), places, pipeline.merge_stages, None)
    folder = pipeline.graph.run(stage)
    whole = read_points(folder)
    assert [point.c for point in whole] == places
    assert whole[0].objective == pytest.approx(1.0), "the base is the base"
    (folder / "stage.json").unlink()
    write_points(folder, whole[:2])
    measured = []
    validate = Trainer.validate
    monkeypatch.setattr(Trainer, "validate", lambda self, *a, **k: measured.append(1) or validate(self, *a, **k))
    assert read_points(pipeline.graph.run(stage)) == whole
    assert len(measured) == 2


def test_the_gram_matrix_is_that_of_the_task_vectors(tmp_path: Path) -> None:
    tiny_encoder().save(tmp_path / "base")
    models = []
    for i in range(2):
        encoder = TextEncoder.load(tmp_path / "base")
        with torch.no_grad():
            for weight in encoder.backbone.parameters():
                weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
        encoder.save(tmp_path / f"m{i}")
        models.append(Model(f"m{i}", path=str(tmp_path / f"m{i}")))
    graph = StageGraph(tmp_path / "run")
    gram = read_gram(
        graph.run(geometry_stage("all", Model("base", path=str(tmp_path / "base")), models, graph, Loading()))
    )

    def flat(folder: str) -> torch.Tensor:
        weights = TextEncoder.load(tmp_path / folder).backbone.state_dict()
        return torch.cat([weights[name].double().flatten() for name in sorted(weights)])

    vectors = torch.stack([flat(f"m{i}") - flat("base") for i in range(2)])
    assert torch.allclose(gram, vectors @ vectors.T, rtol=1e-5)
