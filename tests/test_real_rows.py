"""Splits of real data at the sizes of the shipped recipes: what is left out, and what is in two parts."""

from pathlib import Path

import pytest

from datamodules import SplitTask, TaskData, load_tasks
from datamodules.row_groups import RowGroups
from lightning_app.recipe.recipe_parser import parse
from lightning_app.recipe.recipe_settings import read_settings
from lightning_app.stages.recipe_data import RecipeData
from tests.test_splits import anchors, shared

ROOT = Path(__file__).parents[1]
DATA = ROOT / "../shared/data"
IN_NO_RECIPE = ("asset_pairs", "mrpc_pos", "reuters-title-body", "sts12_train", "trecqa-train")

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


@pytest.mark.parametrize("name", ["four-tasks", "imbalance", "late-task", "paper-two-tasks", "sts-retrieval"])
def test_shipped_recipes_leave_out_few_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    settings = read_settings(parse("fit", ["--config", name]))
    names = [expert.recipe for expert in settings.experts.values() if expert.recipe]
    experts = {name: settings.recipes[name] for name in names}
    data = RecipeData(experts, settings.experts, settings.probe, None, settings.seed)
    for split in data.tasks.values():
        check(split)
    assert not shared(anchors, *data.tasks.values())


@pytest.mark.parametrize("name", [*IN_NO_RECIPE, "nfcorpus-train"])
def test_a_probe_of_a_thousand_leaves_out_few_rows(name: str) -> None:
    source = str(DATA / "train" / name / "train.jsonl.gz")
    (split,) = load_tasks([source], probe_size=1024, validation_size=256).values()
    check(split)
