"""Scores of a model on the single examples of an MTEB task, taken out of mteb's evaluation.

mteb is imported inside functions only: importing it takes seconds and reseeds every random number generator.
"""

import json
import re
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from callbacks.mteb.mteb_encoder import MtebEncoder
from callbacks.mteb.task_evaluation import evaluate_task

if TYPE_CHECKING:
    from mteb import AbsTask
    from mteb.results import TaskResult

ExampleScores = dict[str, list[float]]
"""``subset/split`` to a score per example: of STS the similarity of a pair; of retrieval the main score of a query, in
the order of the ids; of classification the share of the classifiers that are right about a text. An empty list: they
do not make up the main score."""

SIMILARITIES = {"cosine_spearman": "cosine_scores", "spearman": "similarity_scores"}
"""Main score of an STS task to mteb's name of the similarities that it ranks."""

QUERY_SCORES = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P", "hit_rate": "success"}
"""Main score of a retrieval task, without its cut-off, to its name in trec_eval."""


def evaluate_with_example_scores(
    encoder: MtebEncoder, task: "AbsTask", predictions: Path, **options: Any
) -> "tuple[TaskResult, ExampleScores]":
    """Score a model on a loaded task, and return the scores of the examples that are evaluated now.

    Args:
        encoder: the model.
        task: from ``load_tasks``.
        predictions: an empty folder, for what mteb writes.
        options: further arguments of `evaluate_task`.

    Returns:
        mteb's result, and the example scores: empty for a task that has none, see `has_example_scores`.
    """
    query_score = _query_score(task)
    if query_score is not None:
        noting, scores = _noting_queries(task, query_score)
        return evaluate_task(encoder, noting, **options), scores
    if is_sts(task):
        result = evaluate_task(encoder, task, prediction_folder=predictions, **options)
        return result, _similarities(task, predictions)
    if _is_classification(task):
        result = evaluate_task(encoder, task, prediction_folder=predictions, **options)
        return result, _accuracies(task, predictions, result)
    return evaluate_task(encoder, task, **options), {}


def has_example_scores(task: "AbsTask") -> bool:
    """Return whether the main score of a task is made of values of its examples: STS, retrieval and classification."""
    return is_sts(task) or _query_score(task) is not None or _is_classification(task)


def is_sts(task: "AbsTask") -> bool:
    """Return whether the main score of a task is the rank correlation of its pairs' similarities with the true ones."""
    from mteb.abstasks.sts import AbsTaskSTS

    return isinstance(task, AbsTaskSTS) and task.metadata.main_score in SIMILARITIES


def subset_splits(task: "AbsTask") -> list[str]:
    """Return the keys of a task's `ExampleScores`: every ``subset/split`` on which it is scored."""
    return [f"{subset}/{split}" for subset in task.hf_subsets for split in task.eval_splits]


def rows_of(task: "AbsTask", subset_split: str) -> Any:
    """Return the loaded rows of one of the `subset_splits` of a task."""
    assert task.dataset is not None
    subset, split = subset_split.rsplit("/", 1)
    splits: Any = task.dataset.get(subset, task.dataset)  # a task with one subset may leave the level out
    return splits[split]


def _is_classification(task: "AbsTask") -> bool:
    """Return whether the main score of a task is the mean accuracy of several classifiers on the same texts."""
    from mteb.abstasks.classification import AbsTaskClassification

    return (
        isinstance(task, AbsTaskClassification)
        and type(task)._evaluate_subset is AbsTaskClassification._evaluate_subset  # one label a text
        and not task.is_cross_validation  # each classifier has texts of its own
        and task.metadata.main_score == "accuracy"
    )


def _query_score(task: "AbsTask") -> str | None:
    """Return the name of a retrieval task's main score in trec_eval; None: it has none, or it is no retrieval task."""
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    metric = re.fullmatch(r"(\w+)_at_(\d+)", task.metadata.main_score)
    if not isinstance(task, AbsTaskRetrieval) or metric is None or metric[1] not in QUERY_SCORES:
        return None
    return f"{QUERY_SCORES[metric[1]]}_{metric[2]}"


def _noting_queries(task: Any, query_score: str) -> "tuple[AbsTask, ExampleScores]":
    """Return a copy of a retrieval task that notes the scores of its queries in what is returned with it."""
    noted: ExampleScores = {}
    noting = copy(task)

    def note(scores: Any, qrels: Any, results: Any, hf_split: str, hf_subset: str) -> Any:
        noted[f"{hf_subset}/{hf_split}"] = [scores[query][query_score] for query in sorted(scores)]
        return task.task_specific_scores(scores, qrels, results, hf_split, hf_subset)

    noting.task_specific_scores = note
    return noting, noted


def _similarities(task: "AbsTask", folder: Path) -> ExampleScores:
    """Return the similarities of the pairs that mteb has just compared."""
    ranked = SIMILARITIES[task.metadata.main_score]
    return {part: found[ranked] for part, found in _read_predictions(task, folder).items()}


def _accuracies(task: Any, folder: Path, result: "TaskResult") -> ExampleScores:
    """Return the share of right classifiers of each text that mteb has just classified, if it makes up the score."""
    found = {}
    for part, predicted in _read_predictions(task, folder).items():
        right = np.array(predicted) == np.array(list(rows_of(task, part)[task.label_column_name]))
        subset, split = part.rsplit("/", 1)
        [accuracy] = [score["accuracy"] for score in result.scores[split] if score["hf_subset"] == subset]
        found[part] = right.mean(axis=0).tolist() if abs(right.mean() - accuracy) < 1e-5 else []
    return found


def _read_predictions(task: "AbsTask", folder: Path) -> dict[str, Any]:
    """Read mteb's predictions for the subsets and splits that it has just evaluated."""
    file = folder / task.prediction_file_name
    if not file.is_file():
        return {}
    subsets = json.loads(file.read_text(encoding="utf-8"))
    del subsets["mteb_model_meta"]
    return {f"{subset}/{split}": found for subset, of in subsets.items() for split, found in of.items()}
