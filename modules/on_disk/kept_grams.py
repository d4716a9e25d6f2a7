"""Gram matrices of task vectors on disk: measured in one pass, and kept for the next merge of the same models.

Shapes: N experts.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.checkpoints.lora import CONFIG
from modules.checkpoints.task_vector_files import TaskVectorFiles, progress
from modules.gram import gram_of
from modules.json_files import read_kept_json
from modules.merging.merge_method import Preparation

FOLDER = "statistics"
"""Beside an expert's weights: what was measured on it."""


@dataclass
class Grams:
    """What a merge has to know of the task vectors.

    Args:
        raw: tensor to ``[N, N]`` float64 of its task vectors; tensors that no expert changed are left out.
        prepared: the same of what the method combines.
        base_square: squared length of the base, over all tensors that were compared.
    """

    raw: dict[str, Tensor] = field(default_factory=dict)
    prepared: dict[str, Tensor] = field(default_factory=dict)
    base_square: float = 0.0

    def add(self, name: str, base: Tensor, vectors: Tensor) -> None:
        """Take a tensor and its task vectors into account."""
        self.base_square += float(gram_of(base[None]))
        if vectors.any():
            self.raw[name] = gram_of(vectors)


def measure(files: TaskVectorFiles, prepare: Preparation | None) -> Grams:
    """Measure all task vectors in one pass.

    Args:
        files: gives them.
        prepare: what a method does to them before it combines them; None: nothing.
    """
    grams = Grams()
    for name in progress(files.names, "measuring angles"):
        base, vectors = files.load(name)
        grams.add(name, base, vectors)
        if name in grams.raw:
            grams.prepared[name] = gram_of(prepare(name, vectors).vectors) if prepare else grams.raw[name]
    return grams


def kept_grams(
    folders: Iterable[Path], preparation: Any, measured: Callable[[], Grams], say: Callable[[str], None]
) -> Grams:
    """The Gram matrices kept beside the first expert, or else measured and kept there.

    Args:
        folders: of the base and the experts, in their order.
        preparation: what says how the method prepares task vectors; has a form as JSON.
        measured: measures them.
        say: prints a line.
    """
    folders = list(folders)
    identity = json.dumps([[_stamps(folder) for folder in folders], preparation])
    path = folders[1] / FOLDER / f"gram-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    kept = read_kept_json(path, None, "angles are measured again", say)
    if kept is not None:
        say(f"angles are known from an earlier merge: {path}")
        return _from_json(kept)
    grams = measured()
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        aside.write_text(json.dumps(_to_json(grams)) + "\n", encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        say(f"angles are not kept for the next merge: {path.parent} cannot be written ({error.strerror})")
    return grams


def _stamps(folder: Path) -> list[list[Any]]:
    """Name, size and time of all that a task vector comes from."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors"), *folder.glob(CONFIG)]
    stats = {str(file.relative_to(folder)): file.stat() for file in files if file.parent.name != FOLDER}
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in sorted(stats.items())]


def _to_json(grams: Grams) -> dict[str, Any]:
    tables = {"raw": grams.raw, "prepared": grams.prepared}
    lists = {kind: {name: gram.tolist() for name, gram in table.items()} for kind, table in tables.items()}
    return lists | {"base_square": grams.base_square}


def _from_json(content: dict[str, Any]) -> Grams:
    raw, prepared = (
        {name: torch.tensor(rows, dtype=torch.float64) for name, rows in content[kind].items()}
        for kind in ("raw", "prepared")
    )
    return Grams(raw, prepared, content["base_square"])
