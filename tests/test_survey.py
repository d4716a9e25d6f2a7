"""Looking around: what a broken-off survey keeps, and what geometry says."""

from pathlib import Path

import pytest
import torch
from lightning import Trainer

from lightning_app.__main__ import main
from lightning_app.recipe.recipe_parser import parse
from lightning_app.stages.geometry import Geometry, read_gram
from lightning_app.stages.model import Model
from lightning_app.stages.recipe_models import RecipeModels
from lightning_app.stages.stage_graph import DONE, PART, StageGraph
from lightning_app.stages.survey import Survey, read_points, write_points
from lightning_app.verbs.recipe_run import RecipeRun
from modules import TextEncoder
from tests.conftest import Project
from tests.tiny_encoder import tiny_encoder


def models_of(project: Project) -> RecipeModels:
    return RecipeRun(parse("study", ["--config", str(project.recipe)])).models


def test_a_survey_goes_on_at_the_point_where_it_was_broken_off(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four places two are there; the others are measured, and all are as without the break."""
    project.write(project.content() | {"baselines": []})
    assert main(["fit", "--config", str(project.recipe)]) == 0
    models, graph = models_of(project), StageGraph(project.run_dir)
    places = [[0.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    merge = models.learned("self_positioning").merge
    stage = Survey.of("look", merge, places, models.data.probe(), models.trainer.of_validation())
    folder = graph.run(stage)
    whole = read_points(folder)
    assert [point.c for point in whole] == places
    assert whole[0].objective == pytest.approx(1.0), "the base is the base"
    (folder / DONE).unlink()
    write_points(folder, whole[:2])
    folder.rename(folder.with_name(folder.name + PART))
    measured = []
    validate = Trainer.validate
    monkeypatch.setattr(Trainer, "validate", lambda self, *a, **k: measured.append(1) or validate(self, *a, **k))
    assert read_points(graph.run(stage)) == whole
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
    gram = read_gram(graph.run(Geometry("all", Model("base", path=str(tmp_path / "base")), tuple(models))))

    def flat(folder: str) -> torch.Tensor:
        weights = TextEncoder.load(tmp_path / folder).backbone.state_dict()
        return torch.cat([weights[name].double().flatten() for name in sorted(weights)])

    vectors = torch.stack([flat(f"m{i}") - flat("base") for i in range(2)])
    assert torch.allclose(gram, vectors @ vectors.T, rtol=1e-5)
