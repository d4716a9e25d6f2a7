"""From recipes to stages: names that mean something by themselves, and what is given and not made."""

import json
from typing import Any

import pytest

from lightning_app.stages.recipe_models import RecipeModels
from lightning_app.stages.stage_graph import with_inputs
from lightning_app.stages.train import Train
from modules import Bfgs, Dare, Slerp, UserError
from modules.merging.describe import describe
from tests.conftest import Project
from tests.test_survey import models_of


def changed(project: Project, **changes: Any) -> RecipeModels:
    content = project.content() | {"baselines": []}
    for path, value in changes.items():
        section: Any = content
        *parents, last = path.split("__")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    project.write(content)
    return models_of(project)


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("recipes__sts__start", "joint", "sts"),
        ("merges__around", {"start": "joint"}, "around"),
        ("merges__of_joint", {"experts": ["joint", "qa"]}, "of_joint"),
    ],
)
def test_joint_is_there_for_whatever_asks_for_it(project: Project, path: str, value: Any, name: str) -> None:
    stage = changed(project, **{path: value}).model(name).stage
    assert stage is not None and "joint" in [needed.name for needed in with_inputs([stage])]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("merges__self_positioning", {"mu": 0.5}, "merges.self_positioning: the section 'model' says how"),
        ("recipes__slerp", {"data": [{"source": "x.jsonl"}]}, "'slerp' is the name of a baseline"),
        ("model__experts", {"base": {"recipe": "qa"}}, "'base' is the name of a baseline"),
    ],
)
def test_a_name_that_would_be_ignored_is_refused(project: Project, path: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        changed(project, **{path: value})


def test_a_weight_of_a_scale_that_is_not_there_is_refused(project: Project) -> None:
    linear = {"method": {"class_path": "modules.TaskArithmetic"}, "mu": 0.5}
    with pytest.raises(UserError, match="merges.linear.mu: it weighs the scale, and TaskArithmetic has none"):
        changed(project, merges__linear=linear).model("linear")


@pytest.mark.parametrize(
    ("changes", "name", "key"),
    [
        ({"model__method": {"class_path": "modules.ModelStock"}}, "self_positioning", "model.method"),
        ({"merges__stock": {"method": {"class_path": "modules.ModelStock"}}}, "stock", "merges.stock.method"),
    ],
)
def test_a_method_that_cannot_be_learned_is_refused(
    project: Project, changes: dict[str, Any], name: str, key: str
) -> None:
    with pytest.raises(UserError, match=f"{key}: ModelStock fixes its own numbers, which leaves nothing to learn"):
        changed(project, **changes).model(name)


def test_no_two_runs_of_a_study_share_a_seeded_recipe(project: Project) -> None:
    more = {"data": [{"source": str(project.folder / "qa.jsonl")}], "batch_size": 8, "seed": 1}
    models = changed(project, recipes__again=more)
    stages = [m.model(name).stage for m in (models, models.with_seed(1)) for name in ("qa", "again")]
    assert len({stage.trainer.seed for stage in stages if isinstance(stage, Train)}) == 4


def test_what_nothing_is_made_of_is_said(project: Project) -> None:
    more = {"data": [{"source": str(project.folder / "qa.jsonl")}], "batch_size": 8}
    models = changed(project, merges__spare={}, recipes__mixed=more, recipes__spare_too=more)
    assert [line.split(":")[0] for line in models.remarks()] == ["recipes.mixed", "recipes.spare_too", "merges.spare"]
    models.model("spare")
    assert "merges.spare" not in " ".join(models.remarks())


def test_methods_and_searches_have_a_form_as_json() -> None:
    forms = [describe(part) for part in (Slerp(), Dare(Slerp(), seed=1), Dare(Slerp(order=["a"]), seed=1), Bfgs())]
    assert len({json.dumps(form, sort_keys=True) for form in forms}) == 4
