"""Splits of real data at the sizes of the shipped recipes: what is left out, and what is in two parts."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules import DataSource, SplitTask, TaskData, load_tasks
from datamodules.row_groups import RowGroups
from lightning_app.recipe.model_recipes import ExpertRecipe
from lightning_app.stages.recipe_data import RecipeData
from modules import Expert
from tests.test_splits import anchors, shared

ROOT = Path(__file__).parents[1]
DATA = ROOT / "../shared/data"
IN_NO_RECIPE = ("asset_pairs", "flickr8k_pairs", "mrpc_pos", "reuters-title-body", "sts12_train", "trecqa-train")

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs the real data sets in ../shared/data")


def check(split: SplitTask) -> None:
    drawn_away = split.left_out.get("limit", 0)
    left_out = sum(split.left_out.values()) - drawn_away
    assert left_out <= 0.05 * (split.read - drawn_away), (split.name, split.left_out)
    assert not shared(anchors, split), split.name
    if RowGroups(split.expert).symmetric:
        assert not shared(compared, split), split.name


def compared(data: TaskData) -> set[str]:
    return {text for column in RowGroups(data).columns for text in column}


def data_of(recipe: dict[str, Any]) -> RecipeData:
    """The data sets of the experts of a recipe."""
    names = [expert["recipe"] for expert in recipe["model"]["experts"].values()]
    experts = {name: ExpertRecipe(data=[DataSource(**d) for d in recipe["recipes"][name]["data"]]) for name in names}
    keys = ("size", "validation_size", "batch_size", "reserve")
    probe = {"task_weights": None, "loss": None} | {key: recipe["data"].get(key) for key in keys}
    return RecipeData(experts, {name: Expert(recipe=name) for name in names}, probe, None, 0)


@pytest.mark.parametrize("name", ["four-tasks", "paper-two-tasks", "sts-retrieval"])
def test_shipped_recipes_leave_out_few_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = yaml.safe_load((ROOT / f"lightning_app/recipes/{name}.yaml").read_text())
    data = data_of(recipe)
    for split in data.tasks.values():
        check(split)
    assert not shared(anchors, *data.tasks.values())


@pytest.mark.parametrize("name", [*IN_NO_RECIPE, "nfcorpus-train"])
def test_a_probe_of_a_thousand_leaves_out_few_rows(name: str) -> None:
    source = str(DATA / "train" / name / "train.jsonl.gz")
    (split,) = load_tasks([source], probe_size=1024, validation_size=256).values()
    check(split)
