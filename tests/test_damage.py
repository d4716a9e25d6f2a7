"""Half a file, or an empty one: what is whole is gone back to, and one line names the file."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from callbacks import MtebCallback, ResumableRun
from callbacks.csv_trace import CsvTrace
from lightning_app.__main__ import main
from lightning_app.stages.model import Model
from lightning_app.stages.score import Score, read_examples, read_scores
from lightning_app.stages.scorer import Scorer
from lightning_app.stages.stage import ResultFolders, Stage
from lightning_app.stages.stage_graph import StageGraph
from lightning_app.stages.survey import Point, read_points, write_points
from modules.checkpoints.whole import is_whole
from modules.on_disk.kept_grams import Grams, kept_grams
from tests.conftest import Project
from tests.test_resumable_run import train
from tests.tiny_encoder import tiny_encoder
from tests.tiny_mirror import write_sts

pytestmark = pytest.mark.usefixtures("own_cache")

Damage = Callable[[Path], None]


def empty(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


both = pytest.mark.parametrize("damage", [empty, half])


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that a user sees."""
    lines: list[str] = []
    for module in (
        "lightning_app.stages.stage_graph",
        "lightning_app.stages.screen",
        "callbacks.resumable_run",
        "callbacks.mteb.result_cache",
        "lightning_app.stages.survey",
    ):
        monkeypatch.setattr(f"{module}.rank_zero_info", lines.append)
    return lines


@both
@pytest.mark.parametrize(
    "name", ["stage.json", "scores.json", "last.ckpt", "model/model.safetensors", "model/config.json"]
)
def test_a_stage_with_a_damaged_file_is_made_again(tmp_path: Path, said: list[str], damage: Damage, name: str) -> None:
    runs = []

    @dataclass(frozen=True)
    class Made(Stage):
        kind = "model"

        def run(self, folder: Path, graph: ResultFolders) -> None:
            runs.append(folder)
            (folder / "model").mkdir(exist_ok=True)
            (folder / "scores.json").write_text('{"STS": 50.0}')
            (folder / "model" / "config.json").write_text('{"hidden_size": 16}')
            torch.save({"state": torch.ones(9)}, folder / "last.ckpt")
            save_file({"weight": torch.ones(9)}, folder / "model" / "model.safetensors")

    graph, stage = StageGraph(tmp_path), Made("x")
    folder = graph.run(stage)
    assert graph.is_done(stage)
    damage(folder / name)
    assert not graph.is_done(stage)
    said.clear()
    graph.run(stage)
    graph.run(stage)
    assert len(runs) == 2 and is_whole(folder / name)
    assert said == [f"{folder / name} is damaged: model x is made again", "[1 of 1] model x"]


@both
def test_training_begins_at_its_start(project: Project, said: list[str], damage: Damage) -> None:
    expected = train(project, project.folder / "whole", every_n_steps=5).state_dict()
    resume = project.folder / "run" / "resume.ckpt"
    resume.parent.mkdir()
    shutil.copy(project.folder / "whole" / "resume.ckpt", resume)
    assert ResumableRun(resume.parent).checkpoint == str(resume)
    damage(resume)
    found = train(project, resume.parent, every_n_steps=5).state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert said == [f"{resume} is damaged: training begins at its start"]
    assert [path.name for path in resume.parent.iterdir()] == ["resume.ckpt"] and is_whole(resume)


@both
@pytest.mark.parametrize("kind", ["results", "examples"])
def test_a_task_is_scored_again(tmp_path: Path, said: list[str], damage: Damage, kind: str) -> None:
    write_sts(tmp_path)
    tiny_encoder().save(tmp_path / "base")
    graph, base = StageGraph(tmp_path / "run"), Model("base", path=str(tmp_path / "base"))
    mteb = MtebCallback(["STSBenchmark"], data_root=str(tmp_path))
    stage = Score("base", base, Scorer(mteb, torch.device("cpu")))
    folder = graph.run(stage)
    scores, examples = read_scores(folder), read_examples(folder, graph.score_cache)
    [file] = (graph.score_cache / kind).rglob("STSBenchmark.json")
    damage(file)
    said.clear()
    assert examples and (kind == "results" or read_examples(folder, graph.score_cache) == {})
    shutil.rmtree(folder)
    said.clear()
    assert read_scores(graph.run(stage)) == scores
    assert read_examples(folder, graph.score_cache) == examples
    assert sum(str(file) in line for line in said) == 1


@both
def test_angles_are_measured_again(tmp_path: Path, damage: Damage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for name in ("base", "expert"):
        (tmp_path / name).mkdir()
    measured: list[Grams] = []
    lines: list[str] = []

    def measure() -> Grams:
        measured.append(Grams({"w": torch.eye(1, dtype=torch.float64)}, {}, 2.0))
        return measured[-1]

    def kept() -> Grams:
        return kept_grams([tmp_path / "base", tmp_path / "expert"], "x", measure, lines.append)

    kept()
    [file] = (tmp_path / "cache" / "embedding-angles").iterdir()
    damage(file)
    assert kept().base_square == kept().base_square == 2.0 and len(measured) == 2
    assert lines == [f"{file} is damaged: angles are measured again", f"angles are known from an earlier merge: {file}"]


@both
def test_a_survey_begins_anew(tmp_path: Path, said: list[str], damage: Damage) -> None:
    write_points(tmp_path, [Point([0.0], 1.0, {}, {})])
    damage(tmp_path / "points.json")
    assert read_points(tmp_path) == []
    assert said == [f"{tmp_path / 'points.json'} is damaged: all places are measured"]


def test_a_trace_keeps_its_whole_rows(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    for text in ("", "step,a\n", "step,a\n0,1.5\n1", "step,a\n0,1.5\n\n"):
        file.write_text(text)
        CsvTrace(file).begin(["step", "a"], 9)
        assert file.read_text().splitlines() == ["step,a", "0,1.5"][: 1 + ("1.5" in text)]


@both
def test_a_checkpoint_that_is_named(experts: Project, capsys: pytest.CaptureFixture[str], damage: Damage) -> None:
    content: dict[str, Any] = experts.content()
    content["model"]["experts"] = {name: {"path": str(experts.folder / name)} for name in ("qa", "sts")}
    content["probe"]["tasks"] = [{"source": str(experts.folder / f"{name}.jsonl")} for name in ("qa", "sts")]
    experts.write(content | {"recipes": {}, "baselines": []})
    checkpoint = experts.folder / "some.ckpt"
    torch.save({"state": torch.ones(9)}, checkpoint)
    damage(checkpoint)
    assert main(["validate", "--config", str(experts.recipe), "--ckpt_path", str(checkpoint)]) == 2
    assert f"error: {checkpoint} is damaged, or no checkpoint" in capsys.readouterr().err


def test_json_that_is_no_text_is_damaged_too(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")
    assert not is_whole(tmp_path / "x.json")
    (tmp_path / "x.json").write_text(json.dumps([1]))
    assert is_whole(tmp_path / "x.json")
