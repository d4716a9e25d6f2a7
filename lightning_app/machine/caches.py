"""The folders that the libraries and this application fill, found by the rules of the libraries without importing them.

Tests compare them with where the libraries look.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modules.cache_folders import angle_cache, hugging_face_home


@dataclass(frozen=True)
class Contents:
    """The contents of a cache.

    Args:
        names: of its entries.
        size: in bytes.
    """

    names: list[str]
    size: int


def hub_cache() -> Path:
    """Return the folder of what was fetched from the hub."""
    return Path(os.environ.get("HF_HUB_CACHE", hugging_face_home() / "hub")).expanduser()


def datasets_cache() -> Path:
    """Return the folder of what ``datasets`` has prepared."""
    return Path(os.environ.get("HF_DATASETS_CACHE", hugging_face_home() / "datasets")).expanduser()


def row_cache() -> Path:
    """Return the folder of the rows, splits and token ids that this application has prepared."""
    return datasets_cache() / "embedding-rows"


def fetched(kind: str) -> Contents:
    """Return what was fetched from the hub.

    Args:
        kind: ``models`` or ``datasets``.
    """
    folders = sorted(hub_cache().glob(f"{kind}--*"))
    names = [folder.name.partition("--")[2].replace("--", "/") for folder in folders]
    return Contents(names, sum(map(size_of, folders)))


def own_caches() -> dict[Path, dict[str, int]]:
    """Return the folders of this application's caches: what is in each, and its bytes."""
    made = [entry for entry in row_cache().glob("*") if entry.is_dir()]
    tokens = [entry for entry in made if entry.name.startswith("tokens-")]
    rows = sum(map(size_of, made)) - sum(map(size_of, tokens))
    return {
        row_cache(): {"rows": rows, "tokens": sum(map(size_of, tokens))},
        angle_cache(): {"angles": size_of(angle_cache())},
    }


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; what links lead to does not count."""
    return sum(file.lstat().st_size for file in _files(path))


def _files(path: Path) -> Iterator[Path]:
    return (file for file in [path, *path.rglob("*")] if file.is_file() and not file.is_symlink())
