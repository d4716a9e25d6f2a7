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
"""Folder beside an expert's weights that keeps measurements of it."""


@dataclass
class Grams:
    """Statistics of task vectors that a merge reads.

    Args:
        raw: tensor to the Gram matrix ``[N, N]`` float64 of its task vectors; unchanged tensors are left out.
        prepared: tensor to the Gram matrix of its task vectors as the method prepares them.
        base_square: squared length of the base, over all tensors that were compared.
    """

    raw: dict[str, Tensor] = field(default_factory=dict)
    prepared: dict[str, Tensor] = field(default_factory=dict)
    base_square: float = 0.0

    def add(self, name: str, base: Tensor, vectors: Tensor) -> None:
        """Add a tensor of the base and its task vectors."""
        self.base_square += float(gram_of(base[None]))
        if vectors.any():
            self.raw[name] = gram_of(vectors)


def measure(files: TaskVectorFiles, prepare: Preparation | None) -> Grams:
    """Measure all task vectors in one pass.

    Args:
        files: gives the task vectors.
        prepare: the method's preparation; None: it combines the task vectors as they are.
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
    """Return the Gram matrices kept beside the first expert; measure and keep them where there are none.

    Args:
        folders: of the base and the experts, in their order.
        preparation: describes the method's preparation of task vectors, in JSON values; None: it has none.
        measured: measures the Gram matrices.
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
    """Return name, size and time of the files that a task vector comes from."""
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
