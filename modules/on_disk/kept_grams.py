"""Gram matrices of task vectors on disk: measured in one pass, and kept for the next merge of the same models.

They are kept in the user's cache, under the identity of the models' weights: wherever these lie, and never beside them.

Shapes: N experts.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.cache_folders import angle_cache
from modules.checkpoints.identity import weights_identity
from modules.checkpoints.task_vector_files import TaskVectorFiles, is_changed
from modules.gram import CHUNK, gram_of
from modules.json_files import json_sha256, read_kept_json
from modules.merging.merge_method import Preparation
from modules.on_disk.suspicion import squared_length

GLANCE = 4096
"""Bytes at the end of a file of weights that tell whether it may be known, before all of it is hashed."""


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


def measure(files: TaskVectorFiles, prepare: Preparation | None) -> Grams:
    """Measure all task vectors in one pass.

    Args:
        files: gives the task vectors.
        prepare: the method's preparation; None: it combines the task vectors as they are.
    """
    grams = Grams()
    largest = max((files.base.weights[name].info.size for name in files.names), default=0)
    spare = torch.empty(len(files.experts) * min(CHUNK, largest), dtype=torch.float64)
    for name, base, vectors, _ in files.each("measuring angles", parts=prepare is None):
        grams.base_square += squared_length(base)
        if is_changed(vectors):
            grams.raw[name] = grams.raw.get(name, 0) + gram_of(vectors, spare)
            if prepare:
                grams.prepared[name] = gram_of(prepare(name, vectors).vectors, spare)
    return grams if prepare else replace(grams, prepared=grams.raw)


def kept_grams(
    folders: Iterable[Path], preparation: Any, measured: Callable[[], Grams], say: Callable[[str], None]
) -> Grams:
    """Return the Gram matrices kept for these models; measure and keep them where there are none.

    Args:
        folders: of the base and the experts, in their order.
        preparation: describes the method's preparation of task vectors, in JSON values; None: it has none.
        measured: measures the Gram matrices.
        say: prints a line.
    """
    folders = list(folders)
    glance = json_sha256([[_glance(folder) for folder in folders], preparation])[:16]
    if list(angle_cache().glob(f"{glance}-*.json")):  # else nothing is known, and the first pass hashes as it reads
        path = _path(glance, folders)
        kept = read_kept_json(path, None, "angles are measured again", say)
        if kept is not None:
            say(f"angles are known from an earlier merge: {path}")
            return _from_json(kept)
    grams = measured()
    path = _path(glance, folders)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(_to_json(grams)) + "\n", encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        say(f"angles are not kept for the next merge: {path.parent} cannot be written ({error.strerror})")
    return grams


def _path(glance: str, folders: list[Path]) -> Path:
    """Return the file of models with this glance, by the identity of their weights."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing leaves Python to others
        identities = list(pool.map(weights_identity, folders))
    return angle_cache() / f"{glance}-{json_sha256(identities)[:32]}.json"


def _glance(folder: Path) -> list[tuple[int, str]]:
    """Return sizes and hashed ends of the files that a task vector comes from."""
    found = []
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]):
        size = file.stat().st_size
        with file.open("rb") as content:
            content.seek(max(0, size - GLANCE))
            found.append((size, hashlib.sha256(content.read()).hexdigest()))
    return found


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
