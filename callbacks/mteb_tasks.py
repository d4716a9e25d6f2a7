"""MTEB tasks: found by name, loaded with their data, scored.

mteb is imported inside functions only: importing it takes seconds and reseeds every random number generator. For the
same reason everything here that touches mteb leaves the generators as it found them.
"""

import difflib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import datasets
from lightning.pytorch.utilities.seed import isolate_rng

from callbacks.mteb_encoder import MtebEncoder
from datamodules.mirror import ROOT_VARIABLE, mirrored_path
from modules.errors import UserError

if TYPE_CHECKING:
    from mteb import AbsTask


def load_tasks(names: Sequence[str], data_root: str | None = None) -> "list[AbsTask]":
    """Tasks with their data in memory, so that a missing data set shows before anything is trained.

    A process reads a task once, however often it is asked for.

    Args:
        names: MTEB task names, or ``PythonDocsSTS`` and ``PythonDocsRetrieval``, which need no download.
        data_root: folder with copies of hub data sets, ``data_root/org/name``; None: ``MTEB_DATA_ROOT``, else the
            hub. Of a multilingual task the subsets in the copy are kept.

    Returns:
        One task a name, restricted to the split ``test`` if it is scored on that, else to its first split.

    Raises:
        UserError: an unknown name, a task without texts or without data of its own, or data that cannot be read.
    """
    mirror = data_root or os.environ.get(ROOT_VARIABLE)
    return [_loaded(name, mirror) for name in names]


def evaluate_tasks(
    encoder: MtebEncoder,
    tasks: "Sequence[AbsTask]",
    *,
    batch_size: int = 64,
    progress: bool = False,
    results_dir: str | None = None,
) -> dict[str, float]:
    """Score a model on loaded tasks.

    Args:
        encoder: the model; its revision must change with its weights if ``results_dir`` is given.
        tasks: from ``load_tasks``; their data stays loaded.
        batch_size: texts in one forward pass.
        progress: draw progress bars.
        results_dir: write mteb's JSON results here, and take from here what was scored before; None: neither.

    Returns:
        Task name to main score x 100 (as leaderboards show it), averaged over the task's subsets.
    """
    with isolate_rng(), _quiet():
        import mteb

        result = mteb.evaluate(
            encoder,
            tasks,
            encode_kwargs={"batch_size": batch_size, "show_progress_bar": progress},
            cache=mteb.ResultCache(results_dir) if results_dir else None,
            show_progress_bar=progress,
        )
    return {task.task_name: 100 * float(task.get_score()) for task in result.task_results}


@cache
def _loaded(name: str, data_root: str | None) -> "AbsTask":
    with isolate_rng(), _quiet():
        task = _task(name)
        _load_data(task, data_root)
    return task


def _task(name: str) -> "AbsTask":
    """The task of that name, without data."""
    from mteb.abstasks.aggregated_task import AbsTaskAggregate
    from mteb.get_tasks import TASK_LIST

    from callbacks.python_docs_tasks import PythonDocsRetrieval, PythonDocsSTS

    kinds: list[type[AbsTask]] = [PythonDocsSTS, PythonDocsRetrieval, *TASK_LIST]
    known = {kind.metadata.name: kind for kind in kinds}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "see mteb.get_tasks() for the names"
        raise UserError(f"tasks: there is no MTEB task {name}; {hint}")
    task = known[name]()
    if isinstance(task, AbsTaskAggregate):
        parts = ", ".join(part.metadata.name for part in task.tasks)
        raise UserError(f"tasks: {name} only averages other tasks; name these instead: {parts}")
    if task.modalities != ["text"]:
        raise UserError(f"tasks: {name} needs {', '.join(task.modalities)}; only text can be embedded here")
    splits = task.metadata.eval_splits
    return task.filter_eval_splits(["test" if "test" in splits else splits[0]])


def _load_data(task: "AbsTask", data_root: str | None) -> None:
    """Load the task's data, from the mirror if it is there."""
    name, path = task.metadata.name, task.metadata.dataset["path"]
    found = mirrored_path(path, data_root)
    if found != path:
        # The metadata is shared by all instances of the task: change a copy.
        task.metadata = task.metadata.model_copy(update={"dataset": {**task.metadata.dataset, "path": found}})
        _keep_present_subsets(task, found)
    try:
        task.load_data()
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        place = found if found != path else f"{path} on the hub; data_root names a folder with a copy"
        raise UserError(f"tasks: cannot read the data of {name} from {place} ({reason})") from error
    _check_splits(task, found)


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


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of ``datasets``, and none of mteb's remarks that a task has a successor, at every epoch."""
    bars, logger = datasets.are_progress_bars_disabled(), logging.getLogger("mteb")
    level = logger.level
    datasets.disable_progress_bars()
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="mteb")
            yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
