"""The tasks of the packaged recipes whose data is on this machine, and what data sets share with their texts."""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from callbacks.mteb.side_effects import without_side_effects
from callbacks.mteb.task_loading import load_tasks
from callbacks.mteb.task_selection import TaskSelection, find_tasks
from callbacks.mteb.task_texts import overlaps
from datamodules import TaskData, mirrored_path
from datamodules.sources.data_source import PYTHON_DOCS
from datamodules.sources.mirror import ROOT_VARIABLE
from lightning_app.machine.caches import fetched
from lightning_app.recipe.recipe_file import packaged_recipes, read_recipe
from modules import UserError

if TYPE_CHECKING:
    from mteb import AbsTask


def packaged_tasks() -> list[str]:
    """Return the names of the tasks of all packaged recipes, each once."""
    recipes = [read_recipe(path).content for path in packaged_recipes().values()]
    return list(dict.fromkeys(task for recipe in recipes for task in recipe.get("mteb", {}).get("tasks") or []))


def overlap_lines(data: Sequence[TaskData]) -> Iterator[str]:
    """Yield what data sets share with the tasks that are here, which tasks were looked at, and which are not here.

    Args:
        data: the data sets.
    """
    with without_side_effects():
        tasks = find_tasks(TaskSelection(tasks=packaged_tasks()))
    here = [found for task in tasks if _is_here(task) for found in _loaded(task.metadata.name)]
    looked_at = [task.metadata.name for task in here]
    absent = [task.metadata.name for task in tasks if task.metadata.name not in looked_at]
    shared = [f"{rows.name}: {line}" for rows in data for line in _shared(rows, here)]
    yield from shared
    none = "" if shared else ", of which no row has a text"
    missing = f"; not here: {', '.join(absent)} ({ROOT_VARIABLE} names a folder with their data)" if absent else ""
    yield f"MTEB tasks looked at: {', '.join(looked_at)}{none}{missing}"


def _shared(rows: TaskData, tasks: "Sequence[AbsTask]") -> Iterator[str]:
    for task, found in overlaps(tasks, [rows]).items():
        if found.normalised:
            yield (
                f"{found.normalised:,} of the {found.texts:,} texts of {task} are training rows: its score would "
                "flatter; decontaminate: true leaves them out where the recipe names the task"
            )


def _is_here(task: "AbsTask") -> bool:
    """Return whether a task's data is in the environment, in the mirror, or fetched from the hub."""
    path = task.metadata.dataset["path"]
    return (
        path == PYTHON_DOCS
        or mirrored_path(path, os.environ.get(ROOT_VARIABLE)) != path
        or path in fetched("datasets").names
    )


def _loaded(name: str) -> "list[AbsTask]":
    """Return a task with its data; nothing where that is damaged."""
    try:
        return load_tasks([name])
    except UserError:
        return []
