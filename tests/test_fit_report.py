"""The report of a fit whose models are scored: the verdict, the intervals, the page, and what TensorBoard shows."""

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import load_tasks
from callbacks.mteb.task_selection import TaskSelection
from lightning_app.__main__ import main
from lightning_app.report.significance import read_row, significance
from tests.chromium import Chromium
from tests.conftest import Project
from tests.tiny_mirror import write_sts, write_xquad

ROWS = ["base", "qa", "sts", "joint", "average", "learned_linear", "self_positioning"]
TASKS = ["STSBenchmark", "XQuADRetrieval"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, str]]:
    """A finished run with scores, and what it printed."""
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
        project = Project(folder)
        write_sts(folder)
        write_xquad(folder)
        content = project.content()
        joint = {"mix": {"qa": None, "sts": None}, "batch_size": 8, "lr": 1e-3, "max_steps": 6, "conflict_every": 3}
        content["recipes"]["joint"] = joint
        content["baselines"] = ["base", "experts", "joint", "average", "learned_linear"]
        content["mteb"] = {"tasks": TASKS, "data_root": str(folder), "every_n_epochs": 1}
        project.write(content)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(["fit", "--config", str(project.recipe)]) == 0
        yield project, printed.getvalue()


def section(text: str, heading: str) -> str:
    return text.split(f"\n## {heading}\n\n")[1].split("\n## ")[0]


def table(text: str, first: str) -> dict[str, list[str]]:
    """The cells of the table whose header begins with a name, by row."""
    lines = text[text.index(f"| {first}") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    return {name: rest for name, *rest in cells}


def objectives(project: Project) -> dict[str, float]:
    """What the stages found on the probe-validation rows."""
    files = project.run_dir.glob("stages/position-*/position.json")
    return {file.parent.name.split("-")[1]: json.loads(file.read_text())["objective"] for file in files}


def test_the_report_has_its_parts_in_order_on_screen_and_in_both_files(scored: tuple[Project, str]) -> None:
    project, printed = scored
    text = (project.run_dir / "report.md").read_text()
    assert text in printed
    headings = ["Verdict", "The models", "The positions", "Probe curves", "Cost", "The data", "Where things are"]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == headings
    assert re.findall("<h2>(.*)</h2>", (project.run_dir / "report.html").read_text()) == headings
    pictures = re.findall(r"^!\[.*\]\((.*)\)$", text, re.MULTILINE)
    assert pictures == ["pictures/position_along_training.png", "pictures/probe_curves.png"]
    assert all((project.run_dir / picture).is_file() for picture in pictures)
    assert list(table(section(text, "Cost"), "route")) == ROWS
    assert "| sts " in section(text, "The data") and "| STSBenchmark " in section(text, "The data")


def test_the_verdict_goes_by_the_probe_and_says_where_the_model_is(scored: tuple[Project, str]) -> None:
    project, printed = scored
    verdict, found = section(printed, "Verdict"), {"base": 1.0} | objectives(project)
    best = min(found, key=found.__getitem__)
    among = "base, learned_linear and self_positioning"
    assert verdict.startswith(f"Take {best}: of {among} it has the lowest loss on the probe-validation rows")
    places = {"base": project.base, "self_positioning": project.run_dir / "model"}
    folder = places.get(best) or project.stages()[f"position-{best}"] / "model"
    assert f'SentenceTransformer("{folder}")' in verdict and (Path(folder) / "modules.json").is_file()
    shown = table(section(printed, "The models"), "model")
    assert {name: float(cells[-1]) for name, cells in shown.items() if cells[-1]} == pytest.approx(found, abs=1e-4)


def test_the_differences_are_those_of_the_bootstrap(scored: tuple[Project, str]) -> None:
    project, printed = scored
    verdict = section(printed, "Verdict")
    chosen = re.findall("Take (.*?):", verdict)[0]
    stages, cache = project.stages(), project.run_dir / "mteb"
    rows = {name: read_row(stages[f"scores-{name}"], cache) for name in ROWS}
    tasks = load_tasks(TaskSelection(TASKS), str(project.folder))
    shown = table(section(printed, "The models"), f"{chosen} minus")
    assert list(shown) == [name for name in ROWS if name != chosen]
    for name, cells in shown.items():
        expected = significance(tasks, rows[name], rows[chosen])
        numbers = [expected.average, *(expected.tasks[task] for task in TASKS)]
        for cell, (observed, bounds) in zip(cells, numbers, strict=True):
            assert bounds is not None
            assert cell == f"{observed:+.2f} ({bounds.low:+.2f} to {bounds.high:+.2f})"
    for name in ("base", "joint", "average"):
        assert f"{name} ({shown[name][0].replace(' (', ', ')}" in verdict


def test_the_trace_of_the_probe_is_the_history_of_the_search(scored: tuple[Project, str]) -> None:
    project, _ = scored
    folder = project.stages()["position-self_positioning"]
    with (folder / "probe_losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "4", "8"], "the start, and every validation"
    means = [(float(row["qa"]) + float(row["sts"])) / 2 for row in rows]
    found = json.loads((folder / "position.json").read_text())
    assert means[1:] == pytest.approx([point["objective"] for point in found["history"]])
    assert min(means) == pytest.approx(found["objective"])
    with (project.run_dir / "pictures" / "probe_curves.csv").open() as file:
        drawn = [row for row in csv.DictReader(file) if row["merge"] == "self_positioning" and row["data set"] == "qa"]
    assert [row["loss"] for row in drawn] == [row["qa"] for row in rows]


def test_tensorboard_has_all_of_it(scored: tuple[Project, str]) -> None:
    project, _ = scored

    def events(run: str) -> EventAccumulator:
        return EventAccumulator(str(project.run_dir / "logs" / run)).Reload()

    position = events("self_positioning")
    losses = [event.value for event in position.Scalars("probe/qa/loss")]
    assert [event.step for event in position.Scalars("probe/sts/loss")] == [0, 4, 8]
    with (project.stages()["position-self_positioning"] / "probe_losses.csv").open() as file:
        assert losses == pytest.approx([float(row["qa"]) for row in csv.DictReader(file)])
    scalars = {"coefficient/qa", "coefficient/sts", "scale", *(f"mteb/{task}" for task in TASKS)}
    assert scalars <= set(position.Tags()["scalars"])
    assert len(events("joint").Scalars("gradient_cosine/qa~sts")) == 3
    for name in ROWS:
        scores = json.loads((project.stages()[f"scores-{name}"] / "scores.json").read_text())
        logged = {task: events(f"scores/{name}").Scalars(f"mteb/{task}")[0].value for task in TASKS}
        assert logged == pytest.approx(scores)
    report = events("report")
    assert report.Tags()["images"] == ["position_along_training", "probe_curves"]
    [recipe] = report.Tensors("recipe/text_summary")
    assert (project.run_dir / "config.yaml").read_text() in recipe.tensor_proto.string_val[0].decode()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_sound_in_a_browser(scored: tuple[Project, str], browser: Chromium, width: int) -> None:
    browser.open(scored[0].run_dir / "report.html", width)
    assert browser.complaints == browser.requests == []
    assert browser.evaluate("document.documentElement.scrollWidth") == width
