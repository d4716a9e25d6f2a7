"""The verb study on a tiny model: what it makes, what it runs again, what it refuses."""

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_app.__main__ import main
from lightning_app.recipe.study_recipe import StudyRecipe
from lightning_app.study.study_tables import StudyTables
from tests.conftest import Project
from tests.tiny_mirror import write_sts, write_xquad

pytestmark = pytest.mark.usefixtures("own_cache")


def content(project: Project, **changes: Any) -> dict[str, Any]:
    write_sts(project.folder)
    write_xquad(project.folder)
    given = project.content()
    given["recipes"]["joint"] = {
        "mix": {"qa": None, "sts": None}, "batch_size": 8, "lr": 1e-3, "max_steps": 8, "conflict_every": 4,
    }  # fmt: skip
    given["mteb"] = {"tasks": ["STSBenchmark", "XQuADRetrieval"], "data_root": str(project.folder)}
    given["baselines"] = ["base", "experts", "joint", "average", "learned_linear"]
    given["position"] = {"max_epochs": 1}
    return given | changes


def study(project: Project, recipe: dict[str, Any], *options: str) -> None:
    project.write(recipe)
    assert main(["study", "--config", str(project.recipe), *options]) == 0


def finished(project: Project) -> dict[str, int]:
    return {file.parent.name: file.stat().st_mtime_ns for file in (project.run_dir / "stages").glob("*/stage.json")}


def probe_column(report: str) -> dict[str, float]:
    """Row of the main table to its loss on the probe-validation rows."""
    header, _, *rows = report[report.index("| model ") :].split("\n\n")[0].splitlines()
    place = [cell.strip() for cell in header.split("|")].index("probe")
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    return {row[1]: float(row[place]) for row in cells}


EVERYTHING = {
    "tasks": {"sts": ["STSBenchmark"]},
    "resampling": {"weights": [[3, 1]], "lengths": ["total", "max"]},
    "seeds": [1],
    "sizes": [0.5],
    "orders": 2,
    "sensitivity": {"mu": [0.0, 0.1], "probe_size": [16], "seeds": [3]},
    "points": 2,
    "grid": 2,
    "max_examples": 10,
}


def test_a_study_makes_everything(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    study(project, content(project, study=EVERYTHING))
    text = (project.run_dir / "report.md").read_text()
    for row in ("base", "qa", "sts", "joint", "average", "learned_linear", "self_positioning"):
        assert f"| {row} " in text
    assert "## The data\n\nRows of each data set" in text
    printed, objectives = capsys.readouterr().out, probe_column(text)
    [chosen] = re.findall("^Take (.*): of 8 models it has the lowest loss", text, re.MULTILINE)
    assert objectives[chosen] == min(objectives.values()) and f"Take {chosen}:" in printed
    assert f"| {chosen} minus" in printed and "an oracle's choice" in printed
    assert "by score: on the same rows, which would have chosen otherwise in" in text
    assert "| model | mean | qa | sts |" in re.sub(" +", " ", text)
    assert "resampled (joint " in text and "| joint 3:1 max " in text and "seed by seed" in text
    page = (project.run_dir / "report.html").read_text()
    assert page.index("Take ") < page.index("<table") < page.index("<img")
    pictures = {path.stem for path in (project.run_dir / "pictures").glob("*.png")}
    assert pictures == {path.stem for path in (project.run_dir / "pictures").glob("*.csv")}
    assert len(pictures) == 14 and {"trade_off_sts", "score_against_cost"} < pictures
    events = EventAccumulator(str(project.run_dir / "logs" / "report")).Reload()
    assert {"loss_landscape", "gradient_cosines"} < set(events.Tags()["images"]) == pictures
    first = finished(project)
    study(project, content(project, study=EVERYTHING))
    assert finished(project) == first, "a second run makes nothing"
    more = content(project, study=EVERYTHING)
    more["baselines"] += ["size_weighted"]
    study(project, more)
    new = {tuple(name.split("-")[:2]) for name in finished(project).keys() - first.keys()}
    of_it = {(kind, "size_weighted") for kind in ("merge", "probe", "probe_score", "scores")}
    assert new == of_it, "one more method makes only what is new, from other seeds, too, where it is the best"
    assert "size_weighted" in (project.run_dir / "report.md").read_text()
    capsys.readouterr()
    study(project, more, "--dry_run")
    left = capsys.readouterr().out
    assert "to run" not in left.rsplit("| together", 1)[0] and " 0 of " in left


def test_any_model_can_be_a_start_and_an_expert(project: Project) -> None:
    recipe = content(project)
    training = {"batch_size": 8, "lr": 1e-3, "max_steps": 4}
    recipe["recipes"] |= {
        "qa_from_joint": {"data": recipe["recipes"]["qa"]["data"], "start": "joint", **training},
        "sts_from_joint": {"data": recipe["recipes"]["sts"]["data"], "start": "joint", **training},
        "control": {"mix": {"qa": None, "sts": None}, "rows": "probe", "start": "average", **training},
    }
    recipe["merges"] = {
        "around_joint": {"start": "joint", "experts": ["base", "qa_from_joint", "sts_from_joint"], "signed": True},
        "experts_and_joint": {"experts": ["qa", "sts", "joint"], "signed": True},
        "of_a_merge": {"experts": ["around_joint", "qa"], "weighting": "equal"},
        "only_qa": {"experts": ["qa"]},
        "sts_added": {"initial": "only_qa", "max_steps": 2},
    }
    recipe["baselines"] = ["control", *recipe["merges"]]
    study(project, recipe)
    stages = project.stages()
    joint = load_file(stages["model-joint"] / "model" / "model.safetensors")
    around = load_file(stages["position-around_joint"] / "model" / "model.safetensors")
    experts = [load_file(stages[f"model-{name}_from_joint"] / "model" / "model.safetensors") for name in ("qa", "sts")]
    experts.insert(0, load_file(project.base / "model.safetensors"))
    found = json.loads((stages["position-around_joint"] / "position.json").read_text())
    key = "encoder.layer.0.output.dense.weight"
    c = [found["position"][f"c/{name}"] for name in ("base", "qa_from_joint", "sts_from_joint")]
    expected = joint[key] + sum(f * (expert[key] - joint[key]) for f, expert in zip(c, experts, strict=True))
    assert torch.allclose(around[key], expected, atol=1e-6)
    losses = [json.loads((stages[f"probe-{name}"] / "probe.json").read_text()) for name in ("around_joint", "base")]
    relative = [losses[0][f"{name}/loss"] / losses[1][f"{name}/loss"] for name in ("qa", "sts")]
    assert found["objective"] == pytest.approx(sum(relative) / 2, rel=1e-4), "relative to the base's, not the start's"
    lines = (stages["position-sts_added"] / "coefficients.csv").read_text().splitlines()
    start = dict(zip(lines[0].split(","), map(float, lines[1].split(",")), strict=True))
    old = json.loads((stages["position-only_qa"] / "position.json").read_text())["position"]
    assert start["c/qa"] == pytest.approx(old["c/qa"], rel=1e-5)
    assert start["c/sts"] == pytest.approx(old["c/qa"], rel=1e-5), "a new expert starts at the mean of the others"
    report = (project.run_dir / "report.md").read_text()
    assert "## Cost\n\nWhat each route costs" in report and "What the position depends on" not in report, (
        "nothing was asked for that"
    )
    assert not re.search(r"^## .*\n+(## |\Z)", report, re.MULTILINE), "no heading without anything below it"


def test_a_dry_run_says_what_is_left_and_makes_nothing(
    project: Project, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        study(project, content(project), "--dry_run")
    assert caplog.text.count("qa: no prompt") == 1, "the steps that are timed are not spoken of"
    assert not project.run_dir.exists() or not finished(project)
    left = capsys.readouterr().out
    assert re.search(r"model +\| +joint \| to run \|", left) and "| done " not in left


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"study": {"resampling": {"weights": [[1, 1, 1]]}}}, "is not one weight for each of qa, sts"),
        ({"study": {"resampling": {"of": "qa", "weights": [[1, 1]]}}}, "'qa' is not a recipe with a mix"),
        ({"study": {"sizes": [2.0]}}, "2.0 is not a fraction"),
        ({"study": {"sensitivity": {"of": "average"}}}, "'average' is not a learned merge"),
        ({"study": {"sensitivity": {"probe_size": [4096]}}}, "raise probe.reserve"),
        ({"study": {"tasks": {"qa": ["SciFact"]}}}, "study.tasks: 'SciFact' is not among mteb.tasks"),
        ({"study": {"averages": {"old": ["SciFact"]}}}, "study.averages: 'SciFact' is not among mteb.tasks"),
        ({"study": {"tasks": {"oops": ["STSBenchmark"]}}}, "study.tasks: there is no expert 'oops'"),
        (
            {"merges": {"a": {"experts": ["b"]}, "b": {"experts": ["a"]}}, "baselines": ["a"]},
            "in a circle: a -> b -> a",
        ),
        ({"merges": {"a": {"experts": ["nobody"]}}, "baselines": ["a"]}, "there is no model 'nobody'"),
        ({"merges": {"a": {"weighting": "size", "mu": 0.1}}}, "merges.a.mu: only a learned position has one"),
        ({"merges": {"a": {"scales": [1.0]}}}, "a learned position finds its own scale"),
        ({"merges": {"qa": {}}}, "another model has that name"),
        ({"mteb": {"tasks": []}}, "mteb.tasks is empty"),
    ],
)
def test_mistakes_are_one_line_before_any_training(
    project: Project, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    project.write(content(project, **changes))
    capsys.readouterr()
    assert main(["study", "--config", str(project.recipe)]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not Path(project.run_dir / "stages").exists()


def test_averages_are_over_two_tasks_or_more_and_each_is_shown_once() -> None:
    recipe = StudyRecipe(
        tasks={"sts": ["STSBenchmark", "SICK-R"], "retrieval": ["SciFact"]},
        averages={"old": ["SciFact", "STSBenchmark"], "same": ["STSBenchmark", "SICK-R"]},
    )
    names = {
        "STSBenchmark": "STS",
        "SICK-R": "STS",
        "SciFact-capped-corpus-9": "Retrieval",
        "Emotion": "Classification",
    }
    tasks: Any = [Namespace(metadata=Namespace(name=name, type=kind)) for name, kind in names.items()]
    study: Any = Namespace(recipe=recipe)
    sts, scifact = ["STSBenchmark", "SICK-R"], "SciFact-capped-corpus-9"
    tables = StudyTables(study, tasks)
    assert tables.groups == {"all": list(names), "STS": sts, "seen": [*sts, scifact], "old": [sts[0], scifact]}
    assert tables.parts(full=True)["old"] == ["STSBenchmark", "SciFact"]
