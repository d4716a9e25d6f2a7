"""Folders of prepared rows on disk: each made once, under a key that names all that it is made of."""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from modules.errors import UserError, first_line

CONTENT = "content.json"
"""File of a whole folder that has the size of each of its other files."""


def cache_folder() -> Path:
    """Return the folder in which prepared data sets lie; it can be deleted at any time, and all is made again."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE).expanduser() / "embedding-rows"


def prepared(key: str, write: Callable[[Path], None]) -> Path:
    """Return the folder of a key, made first if it is not there whole.

    Several processes may ask at once: the first makes it, the others wait. It is made aside and renamed, so that a
    folder which is there was finished; one whose files are not as they were written is made again.

    Args:
        key: a hash of all that the content depends on.
        write: writes the files into a folder that exists and is empty.

    Raises:
        UserError: the cache cannot be written.
    """
    folder = cache_folder() / key
    if _is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _one_process(folder.with_name(f"{key}.lock")):
            if not _is_whole(folder):
                _make(folder, write)
    except OSError as error:
        raise UserError(
            f"{folder.parent}: prepared rows cannot be written ({first_line(error)}); "
            "name a folder with room in HF_DATASETS_CACHE"
        ) from error
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        sizes: dict[str, int] = json.loads((folder / CONTENT).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _make(folder: Path, write: Callable[[Path], None]) -> None:
    aside = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    aside.mkdir()
    try:
        write(aside)
        sizes = {path.name: path.stat().st_size for path in aside.iterdir()}
        (aside / CONTENT).write_text(json.dumps(sizes))
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _one_process(lock: Path) -> Iterator[None]:
    """In this block, no other process holds the lock."""
    with open(lock, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
