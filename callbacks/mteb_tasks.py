"""MTEB tasks: loaded with their data, scored.

mteb is imported inside functions only: importing it takes seconds and reseeds every random number generator. For the
same reason everything here that touches mteb leaves the generators as it found them.
"""

import logging
import os
import random
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from statistics import fmean
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from tqdm.auto import tqdm

from callbacks.mteb_encoder import MtebEncoder
from callbacks.prompts import log_prompts
from callbacks.task_cap import cap_task
from callbacks.task_selection import TaskSelection, find_tasks
from datamodules.sources.mirror import ROOT_VARIABLE, hub_or_cache, mirrored_path, tried_places
from modules.distributed import together
from modules.errors import UserError

if TYPE_CHECKING:
    from mteb import AbsTask
    from mteb.results import TaskResult

_loaded: "dict[tuple[Any, ...], AbsTask]" = {}
"""Every task that this process has read, by all that its data depends on."""


def load_tasks(wanted: TaskSelection | Sequence[str], data_root: str | None = None) -> "list[AbsTask]":
    """Tasks with their data in memory, so that a missing data set shows before anything is trained.

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
    with together(), isolate_rng(), _quiet():
        return [_load(task, selection, mirror) for task in find_tasks(selection)]


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
    scores = {}
    for task in tqdm(tasks, desc="MTEB", unit="task", disable=not progress, leave=False):
        result = evaluate_task(encoder, task, batch_size=batch_size, progress=progress, results_dir=results_dir)
        scores[task.metadata.name] = main_score(result)
    return scores


def evaluate_task(
    encoder: MtebEncoder,
    task: "AbsTask",
    *,
    batch_size: int = 64,
    progress: bool = False,
    results_dir: str | None = None,
    **options: Any,
) -> "TaskResult":
    """Return mteb's result of one loaded task; see `evaluate_tasks`.

    Args:
        encoder: the model.
        task: from ``load_tasks``; a copy of it is evaluated, so that it stays as it is.
        batch_size: texts in one forward pass.
        progress: draw progress bars.
        results_dir: of mteb's JSON results.
        options: further arguments of ``mteb.evaluate``.
    """
    with together(), isolate_rng(), _quiet():
        import mteb

        log_prompts(encoder.prompt, task)
        result = mteb.evaluate(
            encoder,
            _as_new(task),
            encode_kwargs={"batch_size": batch_size, "show_progress_bar": progress},
            cache=mteb.ResultCache(results_dir) if results_dir else None,
            show_progress_bar=progress,
            **options,
        )
    return result.task_results[0]


def main_score(result: "TaskResult") -> float:
    """The main score x 100 of a task, averaged over its splits and subsets."""
    return 100 * float(result.get_score())


def averages(tasks: "Sequence[AbsTask]", scores: Mapping[str, float]) -> dict[str, float]:
    """Means of scores.

    Args:
        tasks: all that were scored.
        scores: by task name.

    Returns:
        ``average/<type>``, the mean over the tasks of each type, and ``average``, that over all tasks.
    """
    by_type = defaultdict(list)
    for task in tasks:
        by_type[f"average/{task.metadata.type}"].append(scores[task.metadata.name])
    return {name: fmean(values) for name, values in by_type.items()} | {"average": fmean(scores.values())}


def _as_new(task: "AbsTask") -> "AbsTask":
    """A copy whose random numbers are those of a task just made; mteb's own would go on from evaluation to evaluation.

    Clustering draws from them and from the global generators, which mteb seeds when it makes a task.
    """
    task = copy(task)
    task.rng_state, task.np_rng = random.Random(task.seed), np.random.default_rng(task.seed)
    random.seed(task.seed)
    np.random.seed(task.seed)
    torch.manual_seed(task.seed)
    return task


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
        with hub_or_cache():
            task.load_data()
        if hasattr(task, "convert_v1_dataset_format_to_v2"):  # of retrieval tasks that load their data themselves
            task.convert_v1_dataset_format_to_v2(None)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"tasks: cannot read the data of {name} from {tried_places(path, data_root)} ({reason})"
        ) from error
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
