"""Folders that are prepared once, whole or not at all."""

import multiprocessing
import time
from pathlib import Path

import pytest

from datamodules.row_cache import cache_folder, prepared
from modules.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


def write(folder: Path) -> None:
    (folder / "rows").write_text("rows")
    with open(cache_folder() / "calls", "a") as file:
        file.write("x")


def write_slowly(folder: Path) -> None:
    write(folder)
    time.sleep(0.2)


def calls() -> int:
    return len((cache_folder() / "calls").read_text())


def test_a_folder_is_made_once_and_made_again_when_damaged() -> None:
    folder = prepared("key", write)
    assert (folder.parent, (folder / "rows").read_text()) == (cache_folder(), "rows")
    assert (prepared("key", write), calls()) == (folder, 1)
    (folder / "rows").write_text("row")
    assert ((prepared("key", write) / "rows").read_text(), calls()) == ("rows", 2)
    (folder / "rows").unlink()
    assert ((prepared("key", write) / "rows").read_text(), calls()) == ("rows", 3)
    (folder / "content.json").write_text("{")
    prepared("key", write)
    prepared("other", write)
    assert calls() == 5


def test_what_failed_leaves_nothing() -> None:
    def fail(folder: Path) -> None:
        (folder / "rows").touch()
        raise UserError("x.jsonl:2: no")

    with pytest.raises(UserError, match="x.jsonl:2: no"):
        prepared("key", fail)
    assert not [path for path in cache_folder().iterdir() if path.is_dir()]
    (cache_folder() / "key.partial").mkdir()
    (cache_folder() / "key.partial" / "left by a process that was killed").touch()
    assert {path.name for path in prepared("key", write).iterdir()} == {"rows", "content.json"}


def test_several_processes_make_one() -> None:
    processes = [multiprocessing.get_context("fork").Process(target=prepared, args=("key", write_slowly)) for _ in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert calls() == 1


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(UserError, match="embedding-rows: prepared rows cannot be written .* in HF_DATASETS_CACHE"):
        prepared("key", write)
