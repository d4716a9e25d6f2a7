"""MTEB tasks scored: mteb's results, main scores and their averages.

mteb is imported inside functions only: importing it takes seconds and reseeds every random number generator.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from callbacks.mteb.mteb_encoder import MtebEncoder
from callbacks.mteb.side_effects import without_side_effects
from callbacks.mteb.task_prompts import log_prompts

if TYPE_CHECKING:
    from mteb import AbsTask
    from mteb.results import TaskResult


MEAN, MEAN_OF_TYPES = "Mean (Task)", "Mean (TaskType)"
"""Columns of MTEB's leaderboard, beside a column for each type."""


def evaluate_tasks(
    encoder: MtebEncoder,
    tasks: "Sequence[AbsTask]",
    *,
    batch_size: int = 64,
    results_dir: str | None = None,
) -> dict[str, float]:
    """Score a model on loaded tasks.

    Args:
        encoder: the model; its revision must change with its weights if ``results_dir`` is given.
        tasks: from ``load_tasks``; their data stays loaded.
        batch_size: texts in one forward pass.
        results_dir: write mteb's JSON results here, and take from here what was scored before; None: neither.

    Returns:
        Task name to main score x 100 (as leaderboards show it), averaged over the task's subsets.
    """
    scores = {}
    for task in tasks:
        result = evaluate_task(encoder, task, batch_size=batch_size, results_dir=results_dir)
        scores[task.metadata.name] = main_score(result)
    return scores


def evaluate_task(
    encoder: MtebEncoder,
    task: "AbsTask",
    *,
    batch_size: int = 64,
    results_dir: str | None = None,
    **options: Any,
) -> "TaskResult":
    """Return mteb's result of one loaded task; see `evaluate_tasks`.

    Args:
        encoder: the model.
        task: from ``load_tasks``; a copy of it is evaluated, so that it stays as it is.
        batch_size: texts in one forward pass.
        results_dir: of mteb's JSON results.
        options: further arguments of ``mteb.evaluate``.
    """
    with without_side_effects():
        import mteb

        log_prompts(encoder.prompt, task)
        result = mteb.evaluate(
            encoder,
            _as_new(task),
            encode_kwargs={"batch_size": batch_size, "show_progress_bar": False},  # the encoder draws its own bar
            cache=mteb.ResultCache(results_dir) if results_dir else None,
            show_progress_bar=False,
            **options,
        )
    return result.task_results[0]


def main_score(result: "TaskResult") -> float:
    """Return the main score x 100 of a task, averaged over its splits and subsets."""
    return 100 * float(result.get_score())


def averages(tasks: "Sequence[AbsTask]", scores: Mapping[str, float]) -> dict[str, float]:
    """Return the means of scores over all tasks and over the tasks of each type.

    Args:
        tasks: all that were scored.
        scores: by task name.

    Returns:
        ``average/<type>``, the mean over the tasks of each type, and ``average``, that over all tasks.
    """
    means = {name: float(mean) for name, mean in leaderboard_means(tasks, scores).items()}
    named = {f"average/{name}": mean for name, mean in means.items() if name not in (MEAN, MEAN_OF_TYPES)}
    return named | {"average": means[MEAN]}


def leaderboard_means(
    tasks: "Sequence[AbsTask]", scores: Mapping[str, float | NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """Return the means of scores that MTEB's leaderboard has, in its order.

    Args:
        tasks: all that were scored.
        scores: by task name: a score, a difference of scores, or an array of them.

    Returns:
        `MEAN`, the mean over all tasks; `MEAN_OF_TYPES`, that over the means of the types; and the mean of each type.
    """
    by_type: dict[str, list[Any]] = defaultdict(list)
    for task in tasks:
        by_type[str(task.metadata.type)].append(scores[task.metadata.name])
    of_types = {name: np.mean(values, axis=0) for name, values in by_type.items()}
    mean = np.mean([value for values in by_type.values() for value in values], axis=0)
    return {MEAN: mean, MEAN_OF_TYPES: np.mean(list(of_types.values()), axis=0), **of_types}


def _as_new(task: "AbsTask") -> "AbsTask":
    """Return a copy of a task with the random numbers of a new one; mteb's own go on from evaluation to evaluation.

    Clustering draws from them and from the global generators, which mteb seeds when it makes a task.
    """
    task = copy(task)
    task.rng_state, task.np_rng = random.Random(task.seed), np.random.default_rng(task.seed)
    random.seed(task.seed)
    np.random.seed(task.seed)
    torch.manual_seed(task.seed)
    return task
