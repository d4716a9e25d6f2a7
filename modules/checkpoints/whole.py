"""Whether files that a run left are whole: a machine may be lost, or a disk full, in the middle of writing one."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from modules.json_files import read_json

KINDS = (".json", ".safetensors", ".ckpt")


def damaged_files(folder: Path) -> Iterator[Path]:
    """The JSON files, weights and checkpoints among a stage's results, and in the model there, that cannot be read."""
    for directory in (folder, folder / "model"):
        for path in sorted(directory.glob("*")):
            if path.suffix in KINDS and not path.name.startswith("resume") and not is_whole(path):
                yield path


def is_whole(path: Path) -> bool:
    """Return whether a file can be read; weights are not, only what says where they are in a file of that size."""
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
