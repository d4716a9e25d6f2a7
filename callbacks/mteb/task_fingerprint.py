"""A hash of all that a score on a loaded MTEB task depends on beside the model.

mteb is imported inside functions only: importing it takes seconds and reseeds every random number generator.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from datasets import Dataset

if TYPE_CHECKING:
    from mteb import AbsTask

ROWS = 1000
"""Rows that are turned into JSON at once."""


@cache
def task_fingerprint(task: "AbsTask") -> str:
    """Return the sha256 of a loaded task: name, splits, subsets, revision, every row that was read, mteb's version.

    Splits that are not scored count as well, because classifiers are trained on them. A process takes it once per task.

    Args:
        task: from ``load_tasks``; its data does not change any more.
    """
    about = task.metadata
    parts = [about.name, str(about.type), about.main_score, list(task.eval_splits), list(task.hf_subsets)]
    found = hashlib.sha256(json.dumps([*parts, about.revision, version("mteb")]).encode())
    data: Any = task.dataset or {}
    kept = {subset: data[subset] for subset in task.hf_subsets if subset in data}
    _add(found, kept or data)  # a task with one subset may leave the level out
    return found.hexdigest()


def _add(found: Any, part: Any) -> None:
    """Add subsets, splits, the parts of a retrieval task, or rows to a hash."""
    if isinstance(part, Mapping) and any(isinstance(value, Mapping | Dataset) for value in part.values()):
        for name in sorted(part):
            found.update(f"{name}\0".encode())
            _add(found, part[name])
    elif isinstance(part, Dataset):
        for start in range(0, len(part), ROWS):
            _add_json(found, part[start : start + ROWS])
    else:
        _add_json(found, part)


def _add_json(found: Any, part: Any) -> None:
    found.update(json.dumps(part, sort_keys=True, default=_described).encode())


def _described(value: Any) -> str:
    """Describe a value that JSON has no form for, without its place in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
