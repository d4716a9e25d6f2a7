"""MTEB tasks read with their data, from a mirror of the hub's data sets or from the hub.

mteb is imported inside functions only: importing it takes seconds and reseeds every random number generator.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets

from callbacks.mteb.side_effects import without_side_effects
from callbacks.mteb.task_cap import cap_task
from callbacks.mteb.task_selection import TaskSelection, find_tasks
from datamodules.sources.mirror import ROOT_VARIABLE, hub_or_cache, mirrored_path, tried_places
from modules.errors import UserError

if TYPE_CHECKING:
    from mteb import AbsTask

_loaded: "dict[tuple[Any, ...], AbsTask]" = {}
"""Every task that this process has read, by all that its data depends on."""


def load_tasks(wanted: TaskSelection | Sequence[str], data_root: str | None = None) -> "list[AbsTask]":
    """Load tasks with their data, so that a missing data set shows before anything is trained.

    A process reads a task once, however often it is asked for. With ``torch.distributed`` a process that cannot read
    one fails all of them.

    Args:
        wanted: a selection, or names of tasks.
        data_root: folder with copies of hub data sets, ``data_root/org/name``; None: ``MTEB_DATA_ROOT``, else the
            hub. Of a multilingual task the subsets in the copy are kept.

    Raises:
        UserError: an unknown name, a task without texts or without data of its own, or data that cannot be read.
    """
    selection = wanted if isinstance(wanted, TaskSelection) else TaskSelection(tasks=list(wanted))
    if not selection:
        return []
    mirror = data_root or os.environ.get(ROOT_VARIABLE)
    with without_side_effects():
        return [_load(task, selection, mirror) for task in find_tasks(selection)]


def _load(task: "AbsTask", selection: TaskSelection, data_root: str | None) -> "AbsTask":
    caps = selection.max_examples, selection.max_corpus
    key = (task.metadata.name, tuple(task.hf_subsets), tuple(task.eval_splits), *caps, data_root)
    if key not in _loaded:
        _load_data(task, data_root)
        cap_task(task, *caps)
        _loaded[key] = task
    return _loaded[key]


def _load_data(task: "AbsTask", data_root: str | None) -> None:
    """Load the task's data, from the mirror if it is there."""
    name, path = task.metadata.name, task.metadata.dataset["path"]
    found = mirrored_path(path, data_root)
    if found != path:
        # The metadata is shared by all instances of the task: change a copy.
        task.metadata = task.metadata.model_copy(update={"dataset": {**task.metadata.dataset, "path": found}})
        _keep_present_subsets(task, found)
    try:
        with hub_or_cache(), _cache_of(found):
            task.load_data()
        if hasattr(task, "convert_v1_dataset_format_to_v2"):  # of retrieval tasks that load their data themselves
            task.convert_v1_dataset_format_to_v2(None)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"tasks: cannot read the data of {name} from {tried_places(path, data_root)} ({reason})"
        ) from error
    _check_splits(task, found)


@contextmanager
def _cache_of(source: str) -> Iterator[None]:
    """In this block, ``datasets`` prepares the data of a mirrored folder apart from all other data.

    By itself, it takes any folder with a card for the one of the same name that it has prepared before (datasets 5.2).

    Args:
        source: a folder, or the name of a hub data set, which ``datasets`` tells apart by its revision.
    """
    files = sorted(path for path in Path(source).resolve().rglob("*") if path.is_file())
    stamps = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    before = datasets.config.HF_DATASETS_CACHE
    if files:
        folder = hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:16]
        datasets.config.HF_DATASETS_CACHE = Path(before) / "mirrors" / folder
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = before


def _check_splits(task: "AbsTask", place: str) -> None:
    """Raise ``UserError`` if a split that will be scored was not among the data."""
    assert task.dataset is not None
    for subset in task.hf_subsets:
        splits = task.dataset.get(subset, task.dataset)  # a task with one subset may leave the level out
        for split in task.eval_splits:
            if split not in splits:
                raise UserError(f"tasks: {place} has no split {split}, on which {task.metadata.name} is scored")


def _keep_present_subsets(task: "AbsTask", folder: str) -> None:
    """Restrict a multilingual task to the languages that the mirror has."""
    if task.metadata.is_multilingual:
        configs = datasets.get_dataset_config_names(folder)
        present = [subset for subset in task.hf_subsets if {subset, f"{subset}-qrels"} & set(configs)]
        if not present:
            wanted = ", ".join(task.hf_subsets)
            raise UserError(f"tasks: {folder} has none of the subsets of {task.metadata.name} ({wanted})")
        task.hf_subsets = present
