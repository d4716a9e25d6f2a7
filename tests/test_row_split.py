"""Which rows are in which part, against the obvious way; kept splits; rows left out because they are evaluated."""

import random
from pathlib import Path

import numpy as np
import pytest

from datamodules import DataSource, TaskData, load_tasks, row_split
from datamodules.decontamination import evaluated_ids
from datamodules.groups import Groups
from datamodules.row_split import split_rows, work_out
from modules.losses.task_batch import LossConfig
from tests.conftest import write_rows
from tests.obvious_split import split

TASKS = {"A": ["Text 3!", "nothing", "???"], "B": ["text  4", "TEXT-3"]}


def made_up(seed: int) -> dict[str, TaskData]:
    """Data sets of all kinds that share texts with themselves and with each other, up to case and white space."""
    draw = random.Random(seed)

    def text(of: int) -> str:
        return draw.choice(["text {}", "Text {}", " text  {}", "text {}."]).format(draw.randrange(of))

    def column(rows: int, of: int) -> list[str]:
        return [text(of) for _ in range(rows)]

    def data(name: str, kind: str, texts: list[list[str]], **more: object) -> TaskData:
        fields = {"target": None, "groups": None} | more
        return TaskData(name, kind, texts, [""] * len(texts), loss=LossConfig(), **fields)

    scores, labels = [draw.random() for _ in range(90)], [draw.randrange(4) for _ in range(80)]
    questions = [f"question {draw.randrange(60)}" for _ in range(200)]
    groups = [f"Group {draw.randrange(30)}" for _ in range(70)]
    yes = [draw.choice(["yes", f"text {row}"]) for row in range(150)]
    return {
        "questions": data("questions", "pairs", [questions, column(200, 900), column(200, 900)]),
        "symmetric": data("symmetric", "pairs", [column(120, 150), column(120, 150)]),
        "frequent": data("frequent", "pairs", [yes, yes[::-1]]),
        "linked": data("linked", "graded", [column(90, 30), column(90, 30)], target=scores),
        "graded": data("graded", "graded", [column(90, 400), column(90, 400)], target=scores),
        "labelled": data("labelled", "labelled", [column(80, 60)], target=labels),
        "grouped": data("grouped", "pairs", [column(70, 200), column(70, 200)], groups=groups),
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tasks", [{}, TASKS], ids=["", "decontaminated"])
def test_the_parts_are_those_of_the_obvious_way(seed: int, tasks: dict[str, list[str]]) -> None:
    data = made_up(seed)
    sizes = {name: (random.Random(seed).randrange(25), seed) for name in data}
    found = work_out(data, sizes, seed, {name: evaluated_ids((text,) for text in tasks[name]) for name in tasks})
    expected = split(data, sizes, seed, tasks)
    for name, parts in expected.items():
        ours = found[name]
        assert (ours.expert.tolist(), ours.probe.tolist(), ours.validation.tolist(), ours.left_out) == parts, name
        assert set(ours.left_out) >= ({"texts of A"} if tasks and name == "linked" else set())


def test_a_split_is_worked_out_once(own_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    data, sizes = made_up(0), dict.fromkeys(made_up(0), (5, 4))
    times = []
    monkeypatch.setattr(row_split, "work_out", lambda *given: times.append(1) or work_out(*given))
    first, again = (split_rows(made_up(0), sizes, 0, {}) for _ in range(2))
    for name, parts in first.items():
        for part, rows in vars(parts).items():
            assert np.array_equal(rows, vars(again[name])[part]), (name, part)
    assert len(times) == 1
    others = [
        (data, sizes, 1, {}),
        (data, sizes | {"linked": (5, 5)}, 0, {}),
        (data, sizes, 0, {"A": evaluated_ids([("text 3",)])}),
        (data | {"linked": data["symmetric"]}, sizes, 0, {}),
    ]
    for number, given in enumerate(others, start=2):
        split_rows(*given)
        assert len(times) == number


def test_rows_that_are_evaluated_are_in_no_part(tmp_path: Path) -> None:
    rows = [{"anchor": f"question {row}", "positive": f"Answer, {row}", "negative": "no"} for row in range(60)]
    write_rows(tmp_path / "x.jsonl", rows)
    tasks = {
        "One": evaluated_ids([("QUESTION 3",), ("untitled", "a title; answer 7"), ("answer 9", "titled answer 9")]),
        "Two": evaluated_ids([("question 3",), ("question: 5?",), ("...",)]),
    }
    source = DataSource(str(tmp_path / "x.jsonl"))
    found = load_tasks([source], probe_size=8, validation_size=8, decontaminate=tasks)["x"]
    assert found.left_out == {"texts of One": 2, "texts of Two": 1}
    placed = sorted(place for part in (found.expert, found.probe, found.validation) for place in part.places.tolist())
    assert placed == [row + 1 for row in range(60) if row not in (3, 5, 9)]


def test_groups_lie_in_two_arrays() -> None:
    groups = Groups.of([[3, 4], [0], [5, 2, 1]])
    assert [group.tolist() for group in groups] == [[3, 4], [0], [5, 2, 1]]
    assert [group.tolist() for group in groups.take(np.array([2, 0]))] == [[5, 2, 1], [3, 4]]
    chosen = np.isin(np.arange(6), [0, 2])
    assert groups.with_any(chosen).tolist() == [False, True, True]
    assert [group.tolist() for group in groups.without(chosen)] == [[3, 4], [5, 1]]
    labels = np.array([1, 0, 1, 1])
    assert [group.tolist() for group in Groups.of_labels(labels)] == [[1], [0, 2, 3]]
