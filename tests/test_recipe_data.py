"""What recipes train on: shares, mixes, resampled mixes, probe rows."""

from collections import Counter
from typing import Any

import pytest

from datamodules import DataSource, TaskDataModule
from datamodules.batching import OneTaskBatches
from lightning_app.recipe.model_recipes import ExpertRecipe
from lightning_app.stages.recipe_data import RecipeData
from lightning_app.stages.stage import content_of
from modules import Expert, LossConfig, UserError
from tests.conftest import Project

PROBE: dict[str, Any] = {"size": 32, "validation_size": 24, "batch_size": 8, "reserve": 48, "task_weights": None}


def read(project: Project, loss: LossConfig | None = None, **recipes: ExpertRecipe) -> RecipeData:
    experts = {
        name: ExpertRecipe(data=[DataSource(str(project.folder / f"{name}.jsonl"))], batch_size=8)
        for name in ("qa", "sts")
    }
    return RecipeData(
        experts | recipes, {name: Expert(recipe=name) for name in experts}, PROBE | {"loss": loss}, None, 0
    )


@pytest.mark.parametrize("length", ["total", "max"])
@pytest.mark.parametrize("ratio", [(3.0, 1.0), (1.0, 1.0), (1.0, 3.0)])
def test_a_resampled_mix_has_its_rows_and_draws_in_their_proportion(
    project: Project, ratio: tuple[float, float], length: Any
) -> None:
    mix: dict[str, float | None] = dict(zip(("qa", "sts"), ratio, strict=True))
    data = read(project, mixed=ExpertRecipe(mix=mix, resample=length, batch_size=8))
    natural = {task.name: len(task.expert) for task in (*data.of("qa"), *data.of("sts"))}
    rows = {task.name: len(task.expert) for task in data.of("mixed")}
    if length == "total":
        assert sum(rows.values()) == sum(natural.values())
    else:
        assert max(rows.values()) == max(natural.values())
    assert abs(rows["qa"] * ratio[1] - rows["sts"] * ratio[0]) <= max(ratio)
    module = TaskDataModule(data.of("mixed"), batch_size=8)
    module.setup()
    batches = OneTaskBatches(list(rows), list(rows.values()), list(rows.values()), 8, seed=3)
    drawn = Counter(task for batch in batches for task, _ in batch)
    total = sum(rows.values()) // 8
    assert all(abs(drawn[i] / 8 - total * n / sum(rows.values())) < 1 for i, n in enumerate(rows.values()))


def test_parts_are_disjoint_and_together_the_whole(project: Project) -> None:
    mix: dict[str, float | None] = {"qa": None, "sts": None}
    parts = {f"part_{i}": ExpertRecipe(mix=mix, part=(i, 3), batch_size=8) for i in (1, 2, 3)}
    data = read(project, whole=ExpertRecipe(mix=mix, batch_size=8), **parts)
    for number, task in enumerate(data.of("whole")):
        rows = [set(data.of(name)[number].expert.places.tolist()) for name in parts]  # type: ignore[union-attr]
        assert sum(map(len, rows)) == len(set.union(*rows)) == len(task.expert)
        assert max(map(len, rows)) - min(map(len, rows)) <= 1
        assert all(content_of(data.of(name)[number].probe) == content_of(task.probe) for name in parts)


def test_a_resampled_mix_keeps_the_shares_within_a_recipe(project: Project) -> None:
    pair = [
        DataSource(str(project.folder / "qa.jsonl"), share=3.0),
        DataSource(str(project.folder / "sts.jsonl"), share=1.0),
    ]
    both = ExpertRecipe(data=pair, batch_size=8)
    data = read(project, both=both, mixed=ExpertRecipe(mix={"both": 1.0, "qa": 1.0}, resample="total", batch_size=8))
    rows = [len(task.expert) for task in data.of("mixed")]
    assert rows[0] + rows[1] == pytest.approx(sum(rows) / 2, abs=1)
    assert rows[0] == pytest.approx(3 * rows[1], abs=3)


def test_the_loss_of_a_mix_stands_in_for_its_recipes_own(project: Project) -> None:
    mix: dict[str, float | None] = {"qa": None, "sts": None}
    plain, sharp = ExpertRecipe(mix=mix, batch_size=8), ExpertRecipe(mix=mix, loss=LossConfig(temperature=0.01))
    sharp_qa = ExpertRecipe(data=[DataSource(str(project.folder / "qa.jsonl"))], loss=LossConfig(temperature=0.02))
    data = read(project, qa=sharp_qa, plain=plain, sharp=sharp, wrong=ExpertRecipe(mix=mix, loss=LossConfig("supcon")))
    losses = {name: [task.expert.loss for task in data.of(name)] for name in ("plain", "sharp")}
    assert losses["plain"] == [LossConfig("infonce", 0.02), LossConfig("cosent", 0.05)]
    assert losses["sharp"] == [LossConfig("infonce", 0.01), LossConfig("cosent", 0.01)]
    assert [task.validation.loss for task in data.of("sharp")] == losses["sharp"]
    assert [task.expert.loss for task in data.probe_tasks()] == losses["plain"], "positions are learned as before"
    with pytest.raises(UserError, match="qa: loss 'supcon' does not fit pairs rows"):
        data.of("wrong")


def test_the_loss_of_the_probe_is_for_what_is_learned_and_chosen_on_it(project: Project) -> None:
    plain, sharp = read(project), read(project, loss=LossConfig(temperature=0.01))
    for module in (sharp.probe().data(), sharp.probe().losses_on_probe()):
        module.setup()
        losses = [part.loss for split in module.splits for part in (split.probe, split.validation)]
        assert losses == [LossConfig(name, 0.01) for name in ("infonce", "infonce", "cosent", "cosent")]
    assert [task.expert.loss for task in (*sharp.of("qa"), *sharp.of("sts"))] == [
        task.expert.loss for task in (*plain.of("qa"), *plain.of("sts"))
    ], "models are trained as before"
    contents = [content_of(data.probe()) for data in (sharp, plain)]
    assert contents[0]["data"] != contents[1]["data"], "no position learned with another loss is served"
    assert contents[0]["arguments"] == contents[1]["arguments"]


def test_the_probe_rows_can_be_trained_on(project: Project) -> None:
    data = read(project, control=ExpertRecipe(mix={"qa": None, "sts": None}, rows="probe", batch_size=8))
    assert [task.expert.texts for task in data.of("control")] == [task.probe.texts for task in data.probe_tasks()]


def test_a_smaller_probe_is_the_beginning_of_a_larger_one(project: Project) -> None:
    data = read(project)
    modules = [data.probe(size).data() for size in (16, 48)]
    for module in modules:
        module.setup()
    for small, large in zip(modules[0].splits, modules[1].splits, strict=True):
        assert small.probe.texts[0] == large.probe.texts[0][: len(small.probe)]
        assert small.validation.texts == large.validation.texts
    with pytest.raises(UserError, match="raise probe.reserve"):
        data.probe(64)


def test_a_merge_may_weigh_the_data_sets_otherwise(project: Project) -> None:
    data = read(project)
    rows = data.probe(None, {"sts": 1.0, "qa": 2.0})
    module = rows.data()
    module.setup()
    assert rows.weights == module.objective_weights == {"qa": 2 / 3, "sts": 1 / 3}
    assert {split.name: len(split.probe) for split in module.splits} == {"qa": 21, "sts": 11}
    assert data.probe().weights == {"qa": 0.5, "sts": 0.5}
    with pytest.raises(UserError, match="raise probe.reserve"):
        data.probe(None, {"sts": 7.0, "qa": 1.0})
    for wrong in ({"sts": 1.0}, {"sts": 1.0, "qa": 0.0}, {"sts": 1.0, "qa": 1.0, "other": 1.0}):
        with pytest.raises(UserError, match="give a weight above 0 for each of qa, sts"):
            data.probe(None, wrong)


def test_resampling_needs_weights(project: Project) -> None:
    data = read(project, mixed=ExpertRecipe(mix={"qa": None, "sts": None}, resample="total", batch_size=8))
    with pytest.raises(UserError, match="needs a weight"):
        data.of("mixed")


def test_weights_of_the_probe_are_relative(project: Project) -> None:
    experts = {
        name: ExpertRecipe(data=[DataSource(str(project.folder / f"{name}.jsonl"))], batch_size=8)
        for name in ("qa", "sts")
    }
    made = [
        RecipeData(experts, {n: Expert(recipe=n) for n in experts}, PROBE | {"loss": None, "task_weights": w}, None, 0)
        for w in (None, {"qa": 1.0, "sts": 1.0}, {"qa": 3.0, "sts": 3.0})
    ]
    assert made[0].tasks == made[1].tasks == made[2].tasks
    assert made[1].probe_weights() == {"qa": 0.5, "sts": 0.5}
