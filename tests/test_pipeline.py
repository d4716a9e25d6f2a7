"""From recipes to stages: names that mean something by themselves, and what is given and not made."""

import json
from typing import Any

import pytest

from lightning_app.stages.merge_stages import describe
from lightning_app.stages.pipeline import Pipeline
from lightning_app.stages.stage_graph import with_inputs
from modules import Bfgs, Dare, Slerp, UserError
from tests.conftest import Project
from tests.test_survey import pipeline_of


def changed(project: Project, **changes: Any) -> Pipeline:
    content = project.content() | {"baselines": []}
    for path, value in changes.items():
        section: Any = content
        *parents, last = path.split("__")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    project.write(content)
    return pipeline_of(project)


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


def test_what_nothing_is_made_of_is_said(project: Project) -> None:
    more = {"data": [{"source": str(project.folder / "qa.jsonl")}], "batch_size": 8}
    pipeline = changed(project, merges__spare={}, recipes__mixed=more, recipes__spare_too=more)
    assert [line.split(":")[0] for line in pipeline.remarks()] == ["recipes.mixed", "recipes.spare_too", "merges.spare"]
    pipeline.model("spare")
    assert "merges.spare" not in " ".join(pipeline.remarks())


def test_keys_of_the_trainer_that_are_not_of_all_stages_are_said(project: Project) -> None:
    assert changed(project).trainers.remarks("x") == []
    stop = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss"}}
    trainer = project.content()["trainer"] | {"max_time": "00:00:10:00", "callbacks": [stop], "logger": False}
    lines = changed(project, trainer=trainer).trainers.remarks("x")
    assert [line.split(":")[0] for line in lines] == ["trainer.max_time", "trainer.callbacks", "trainer.logger"]


def test_methods_and_searches_have_a_form_as_json() -> None:
    forms = [describe(part) for part in (Slerp(), Dare(Slerp(), seed=1), Dare(Slerp(order=["a"]), seed=1), Bfgs())]
    assert len({json.dumps(form, sort_keys=True) for form in forms}) == 4
