"""Rows that are read once and mapped from then on, against the obvious reader."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from datamodules import DataSource, TaskData, load_task
from datamodules.row_cache import cache_folder
from datamodules.sources import file_rows
from tests.conftest import write_rows

pytestmark = pytest.mark.usefixtures("own_cache")


def made_up_rows(count: int) -> list[dict[str, Any]]:
    draw = random.Random(0)

    def texts(most: int) -> list[str]:
        return [f"text {draw.randrange(1000)}" for _ in range(draw.randint(0, most))]

    rows = [{"anchor": f"a {i}", "positive": ["p", *texts(2)], "negative": texts(3)} for i in range(count)]
    return [row | {"score": draw.random(), "group": draw.randrange(9)} for row in rows]


def obvious(path: Path, limit: int, min_score: float) -> list[tuple[int, str, str, list[str], str]]:
    lines = enumerate(path.read_text().split("\n"), 1)
    rows = [(number, json.loads(line)) for number, line in lines if line.strip()]
    pairs = [
        (number, row["anchor"], positive, row["negative"], str(row["group"]))
        for number, row in rows
        if row["score"] >= min_score
        for positive in row["positive"]
    ]
    return [pairs[place] for place in sorted(random.Random(0).sample(range(len(pairs)), limit))]


def pairs_of(task: TaskData) -> list[tuple[int, str, str, list[str], str]]:
    anchors, positives, *negatives = map(list, task.texts)
    own = [[column[row] for column in negatives if column[row]] for row in range(len(task))]
    return list(zip(task.places.tolist(), anchors, positives, own, task.groups, strict=True))


def folders() -> dict[str, dict[str, bytes]]:
    found = [path for path in cache_folder().iterdir() if path.is_dir()]
    return {path.name: {file.name: file.read_bytes() for file in path.iterdir()} for path in found}


def test_rows_order_and_draw_are_those_of_the_obvious_reader(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_rows(path, made_up_rows(300))
    path.write_text("\n" + path.read_text().replace("\n", "\n\n", 7))
    source = DataSource(str(path), limit=100, min_score=0.3)
    for _ in range(2):
        assert pairs_of(load_task(source)) == obvious(path, 100, 0.3)
    assert load_task(source).left_out.keys() == {"below min_score", "limit"}


def test_the_cache_is_what_a_fresh_read_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    write_rows(path, made_up_rows(50))
    source = DataSource(str(path), on_bad_row="skip")
    first, mapped = load_task(source), load_task(source)
    ((key, files),) = folders().items()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "other"))
    fresh = load_task(source)
    assert folders() == {key: files}
    assert len({task.fingerprint() for task in (first, mapped, fresh)}) == 1
    assert pairs_of(mapped) == pairs_of(fresh)
    assert [mapped.notes, mapped.left_out] == [fresh.notes, fresh.left_out]


def test_what_changes_rows_is_in_the_key(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_rows(path, made_up_rows(50))
    source = DataSource(str(path))
    load_task(source)
    for same in ({"limit": 7}, {"name": "y"}, {"prompts": {"anchor": "q "}}, {"share": 2.0}):
        load_task(replace(source, **same))
    assert len(folders()) == 1
    changes = [{"min_score": 0.1}, {"columns": {"group": "anchor"}}, {"on_bad_row": "skip"}]
    for number, change in enumerate(changes, 2):
        load_task(replace(source, **change))
        assert len(folders()) == number
    before = load_task(source).fingerprint()
    path.write_text(path.read_text().replace("a 7", "b 7", 1))
    assert "b 7" in load_task(source).texts[0]
    assert load_task(source).fingerprint() != before


def test_bytes_are_hashed_once_per_process(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.jsonl", made_up_rows(50))
    before = file_rows._sha256.cache_info().misses
    for limit in (None, None, 3):
        load_task(DataSource(str(tmp_path / "x.jsonl"), limit=limit))
    assert file_rows._sha256.cache_info().misses == before + 1


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_rows(path, made_up_rows(50))
    before = load_task(DataSource(str(path))).fingerprint()
    (file,) = cache_folder().glob("*/rows.arrow")
    file.write_bytes(file.read_bytes()[:99])
    assert load_task(DataSource(str(path))).fingerprint() == before
