"""Checks that the files of a run are whole: a machine may be lost, or a disk full, in the middle of writing."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from modules.json_files import read_json

KINDS = (".json", ".safetensors", ".ckpt")


def damaged_files(folder: Path) -> Iterator[Path]:
    """Yield the JSON files, weights and checkpoints in a stage's folder, and in its model, that cannot be read."""
    for directory in (folder, folder / "model"):
        for path in sorted(directory.glob("*")):
            if path.suffix in KINDS and not path.name.startswith("resume") and not is_whole(path):
                yield path


def is_whole(path: Path) -> bool:
    """Return whether a file can be read; of weights, the header only, which has to fit the size of the file."""
    try:
        if path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                pass
        else:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, EOFError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError):
        return False
    return True
