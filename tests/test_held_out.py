"""Which rows are held out, on rows as people have them: what is left out, and that no example is in two parts."""

import json
import random
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import DataSource, load_task, load_tasks, text_id
from datamodules.groups import Groups
from datamodules.held_out import HeldOut, held_out_order
from datamodules.row_groups import RowGroups
from datamodules.splits import SplitTask
from datamodules.task_data import TaskData
from modules.errors import UserError
from modules.losses.task_batch import LossConfig
from tests.test_splits import anchors, shared, texts


def pairs(rows: list[tuple[str, str]]) -> TaskData:
    return TaskData(
        "t", "pairs", [list(column) for column in zip(*rows, strict=True)], ["", ""], None, None, LossConfig()
    )


def split(folder: Path, rows: list[dict[str, Any]], probe: int = 128, validation: int = 64, **source: Any) -> SplitTask:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_tasks([DataSource(str(path), **source)], probe_size=probe, validation_size=validation)["rows"]


def left_out(found: SplitTask) -> float:
    return sum(found.left_out.values()) / found.read


@pytest.mark.parametrize("seed", range(20))
def test_the_order_never_leaves_out_more_than_its_room(seed: int) -> None:
    draw = random.Random(seed)
    sizes = [draw.choice([1, 1, 2, 3, draw.randint(1, 40)]) for _ in range(draw.randint(1, 60))]
    rows = iter(range(sum(sizes)))
    groups = [list(islice(rows, size)) for size in sizes]
    of = {row: number for number, group in enumerate(groups) for row in group}
    rooms = sorted(draw.sample(range(45), 3))
    order = list(held_out_order(Groups.of(groups), rooms))
    assert len(order) == len(set(order)) == sum(size for size in sizes if size - 1 <= rooms[-1])
    given: Counter[int] = Counter()
    for row in order:
        given[of[row]] += 1
        room = min(room for room in rooms if room >= max(sizes[group] for group in given) - 1)
        assert sum(sizes[group] - rows_given for group, rows_given in given.items()) <= room
        assert groups[of[row]][given[of[row]] - 1] == row


def test_a_group_gives_two_rows_while_there_is_room() -> None:
    groups = [list(range(start, start + 5)) for start in range(0, 50, 5)]
    assert list(held_out_order(Groups.of(groups), [100]))[:6] == [0, 1, 5, 6, 10, 11]
    # With room for 7 rows, two groups of 5 cannot both be left with 3 when a third begins.
    assert list(held_out_order(Groups.of(groups), [7]))[:10] == [0, 1, 5, 6, 2, 7, 3, 10, 11, 8]


def test_many_questions_may_have_one_answer(tmp_path: Path) -> None:
    faq = [{"anchor": f"question {row}", "positive": f"answer {row % 200}"} for row in range(10_000)]
    found = split(tmp_path, faq, probe=1024, validation=256)
    assert (len(found.probe), len(found.validation), len(found.expert)) == (1024, 256, 8720)


def test_class_names_may_be_positives(tmp_path: Path) -> None:
    found = split(tmp_path, [{"anchor": f"text {row}", "positive": f"class {row % 5}"} for row in range(600)])
    assert (len(found.expert), found.left_out) == (408, {})


def test_captions_of_one_picture_are_in_one_part(tmp_path: Path) -> None:
    """Five captions of each picture, paired as they come: either column may hold any of them."""
    draw = random.Random(0)
    captions = [[f"caption {number} of picture {picture}" for number in range(5)] for picture in range(600)]
    rows = [dict(zip(("anchor", "positive"), draw.sample(draw.choice(captions), 2), strict=True)) for _ in range(3000)]
    found = split(tmp_path, rows)
    assert not shared(texts, found)
    assert (len(found.probe), len(found.validation)) == (128, 64)
    assert left_out(found) <= 0.05


@pytest.mark.parametrize("documents", [2, 20, 200, 700])
def test_rows_of_one_query_are_in_one_part(tmp_path: Path, documents: int) -> None:
    """However many documents a query has: few rows of each are held out, or queries of fewer documents."""
    queries = [row // documents for row in range(7000)] + [10_000 + row for row in range(400)]
    rows = [{"anchor": f"query {query}", "positive": f"document {row}"} for row, query in enumerate(queries)]
    found = split(tmp_path, rows)
    assert not shared(anchors, found)
    assert (len(found.probe), len(found.validation)) == (128, 64)
    assert left_out(found) <= 0.05


def test_one_query_with_all_documents_is_refused_and_a_group_column_is_the_way_on(tmp_path: Path) -> None:
    rows = [{"anchor": "what is new", "positive": f"document {row}", "id": row} for row in range(600)]
    with pytest.raises(
        UserError,
        match=r"none of 64 rows can be held out: its 600 rows are one group \(rows of one anchor\), .*column 'group'",
    ):
        split(tmp_path, rows)
    found = split(tmp_path, rows, columns={"group": "id"})
    assert (len(found.expert), len(found.probe), len(found.validation)) == (408, 128, 64)


def test_graded_rows_that_shared_texts_link_are_grouped_by_anchor(tmp_path: Path) -> None:
    rows = [
        {"sentence1": f"query {row // 10}", "sentence2": f"document {row % 97}", "score": row % 2}
        for row in range(2000)
    ]
    found = split(tmp_path, rows)
    assert not shared(anchors, found) and shared(texts, found)
    assert found.notes == [
        "grouped by anchor, so that other texts may be in two parts: shared texts link 2,000 of its 2,000 rows"
    ]


def test_a_frequent_text_links_no_rows() -> None:
    rows = [(f"a {row}", "yes") for row in range(51)] + [(f"b {row}", "no") for row in range(49)]
    rows += [("yes", "x"), ("no", "x")]
    groups = RowGroups(pairs(rows))
    assert groups.symmetric and groups.frequent.tolist() == [text_id("yes")]
    assert sorted(map(len, groups.members)) == [1] * 51 + [51]


def test_linked_rows_are_connected_components() -> None:
    """Against the obvious way: join sets of rows until none share a text."""
    draw = random.Random(1)
    rows = [(f"T  {draw.randrange(150)}", f"t {draw.randrange(150)}") for _ in range(60)]
    components: list[tuple[set[int], set[str]]] = []
    for row, (a, b) in enumerate(rows):
        joined, words = {row}, {a.lower().replace("  ", " "), b}
        for component in [c for c in components if c[1] & words]:
            components.remove(component)
            joined, words = joined | component[0], words | component[1]
        components.append((joined, words))
    found = [group.tolist() for group in RowGroups(pairs(rows)).members]
    assert sorted(found) == sorted(sorted(component) for component, _ in components)


A_ROW_OF_IT = [
    ("the same anchor", ("q1", "d1"), ("Q1", "other"), True),
    ("the same two texts the other way round", ("q1", "d1"), ("d1", "q1"), True),
    ("the same positive", ("q1", "d1"), ("other", "d1"), False),
    ("an anchor that is a positive", ("q1", "d1"), ("d1", "other"), False),
]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("held", "row", "forbidden"), [case[1:] for case in A_ROW_OF_IT], ids=[c[0] for c in A_ROW_OF_IT]
)
def test_what_one_data_set_holds_out_for_others(
    held: tuple[str, str], row: tuple[str, str], forbidden: bool, symmetric: bool
) -> None:
    """If one of the two data sets is symmetric, one shared text is enough."""
    one, two = RowGroups(pairs([held])), RowGroups(pairs([row, ("x", "x" if symmetric else "y")]))
    assert (one.symmetric, two.symmetric) == (False, symmetric)
    for holding, row_of in ((one, two), (two, one)):
        held_out = HeldOut()
        held_out.add("holding", holding, np.array([0]), np.array([0]))
        assert held_out.holds("other", row_of)[0] == (forbidden or symmetric)
        assert not held_out.holds("holding", holding)[0]


def test_one_held_out_row_does_not_empty_another_data_set(tmp_path: Path) -> None:
    """All rows of the other have the held-out anchor: only the very same pair is left out."""
    held_out = HeldOut()
    few = RowGroups(pairs([("what is new", "document 3"), ("x", "y")]))
    held_out.add("few", few, np.array([0]), np.array([0]))
    many = RowGroups(pairs([("what is new", f"document {row}") for row in range(100)]))
    assert held_out.holds("many", many).nonzero()[0].tolist() == [3]


def test_a_group_column_of_numbers_or_words(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for groups in (["a", "b", "a"], [1, 2, 1]):
        rows = [{"anchor": "q", "positive": "p", "group": group} for group in groups]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert load_task(DataSource(str(path))).groups == [str(group) for group in groups]
