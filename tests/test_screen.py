"""What a run says of its stages: their number, and about how long the others take."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightning_app.stages.screen import Screen, readable
from lightning_app.stages.stage import ResultFolders, Stage
from lightning_app.stages.stage_graph import StageGraph


@dataclass(frozen=True)
class Sized(Stage):
    kind = "sized"

    size: int

    @property
    def texts(self) -> int:
        return self.size

    def run(self, folder: Path, graph: ResultFolders) -> None:
        pass


STAGES = [Sized("a", 100), Sized("b", 300), Sized("c", 600)]


def test_the_time_left_is_that_of_the_first_estimate_and_then_of_what_stages_took() -> None:
    screen = Screen(seconds_per_text=lambda: 0.1)
    screen.plan(STAGES)
    assert screen.seconds_left() == pytest.approx(100)
    screen.end(STAGES[0], seconds=50.0)
    assert screen.seconds_left() == pytest.approx(450), "stages of this kind take half a second a text"
    assert Screen().seconds_left() is None


def test_a_line_per_stage_that_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    StageGraph(tmp_path).run(STAGES[1])
    caplog.clear()
    StageGraph(tmp_path, screen=Screen(seconds_per_text=lambda: 1.0)).run_all(STAGES)
    assert [line.split(",")[0] for line in caplog.messages] == ["[1 of 2] sized a", "[2 of 2] sized c"]
    assert caplog.messages[0] == "[1 of 2] sized a, about 12 min left"


def test_an_object_per_event(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    StageGraph(tmp_path, screen=Screen("json", lambda: 1.0)).run_all(STAGES[:2])
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(event["event"], event["name"]) for event in events] == [
        ("begin", "a"), ("end", "a"), ("begin", "b"), ("end", "b"),
    ]  # fmt: skip
    assert events[0] | {"number": 1, "of": 2, "seconds_left": 400} == events[0]
    assert not caplog.messages


def test_a_quiet_run_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    StageGraph(tmp_path, screen=Screen("quiet")).run_all(STAGES)
    assert not caplog.messages and capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "about 1 s"), (61, "about 61 s"), (200, "about 3 min"), (5000, "about 83 min"), (9000, "about 2.5 h")],
)
def test_a_time_in_words(seconds: float, words: str) -> None:
    assert readable(seconds) == words
