"""Data sets of the hub: in a mirror, and as streams."""

from pathlib import Path

import datasets
import pytest

from datamodules import DataSource, load_task
from datamodules.sources import prepared_rows
from datamodules.sources.dataset_rows import StreamedRows
from modules.errors import UserError
from tests.conftest import write_rows

pytestmark = pytest.mark.usefixtures("own_cache")

ROWS = [{"anchor": f"a {i}", "positive": f"p {i}", "score": i % 4} for i in range(500)]


def stream(folder: Path, enough: int) -> StreamedRows:
    write_rows(folder / "train.jsonl", ROWS)
    return StreamedRows("org/name", datasets.load_dataset(str(folder), split="train", streaming=True), "commit", enough)


def test_a_stream_is_read_until_there_are_enough_rows(tmp_path: Path) -> None:
    rows = stream(tmp_path, enough=50)
    made = []
    for number, min_score in enumerate((None, None, 3)):
        (tmp_path / str(number)).mkdir()
        prepared_rows.write_rows(tmp_path / str(number), DataSource("org/name", min_score=min_score), rows)
        made.append(prepared_rows.map_rows(tmp_path / str(number)))
    first, again, filtered = made
    assert list(zip(*first.texts, strict=True)) == list(zip(*again.texts, strict=True)), "the draw has a fixed seed"
    assert len(first.places) == 50 and first.places.tolist() == list(range(1, 51))
    assert first.texts[0] != [row["anchor"] for row in ROWS[:50]], "drawn, not the beginning"
    drawn = set(zip(*first.texts, strict=True))
    assert len(drawn) == 50 and drawn <= {(row["anchor"], row["positive"]) for row in ROWS}
    assert 50 <= len(filtered.places) < 100 and filtered.left_out["below min_score"] > 50
    assert first.notes[0].startswith("streamed until there were 50 rows")


def test_a_stream_that_breaks_off(tmp_path: Path) -> None:
    rows = stream(tmp_path, enough=50)
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(UserError, match=r"hub data set org/name: cannot be streamed \("):
        list(rows.blocks())


def test_a_config_of_a_hub_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTEB_DATA_ROOT", str(tmp_path))
    folder = tmp_path / "org" / "name"
    card = ["---", "configs:"]
    for config in ("de", "en"):
        (folder / config).mkdir(parents=True)
        write_rows(folder / config / "train.jsonl", [{"anchor": config, "positive": "p"}] * 3)
        card += [f"- config_name: {config}", "  data_files:", "  - split: train", f"    path: {config}/train.jsonl"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    for config in ("de", "en"):
        task = load_task(DataSource("org/name", config=config, limit=2))
        assert (task.name, task.texts[0], task.notes) == (f"name-{config}", [config] * 2, [])
    with pytest.raises(UserError, match=r"hub data set org/name \(config fr, split train\)"):
        load_task(DataSource("org/name", config="fr"))
    task = load_task(DataSource("org/name", config="en", revision="v1"))
    assert task.notes == [f"read from {folder}, whatever revision that is"]
