"""What a model made of every single example of an MTEB task, for comparing two models.

mteb is imported inside functions only: importing it takes seconds and reseeds every random number generator.
"""

import json
import re
import tempfile
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from callbacks.mteb_encoder import MtebEncoder
from callbacks.mteb_tasks import evaluate_task
from modules.bootstrap import Interval, interval, mean_differences, spearman_differences

if TYPE_CHECKING:
    from mteb import AbsTask
    from mteb.results import TaskResult

Examples = dict[str, list[float]]
"""``subset/split`` to a value an example: the similarity of a pair, the score of a query (in the order of its id)."""

SIMILARITIES = {"cosine_spearman": "cosine_scores", "spearman": "similarity_scores"}
"""Main score of an STS task to mteb's name of what it ranks."""

QUERY_SCORES = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P", "hit_rate": "success"}
"""Main score of a retrieval task, without its cut-off, to trec_eval's name of it."""


def evaluate_examples(
    encoder: MtebEncoder, task: "AbsTask", folder: Path, **options: Any
) -> "tuple[TaskResult, Examples]":
    """Score a model on a loaded task, and keep what it made of each example beside mteb's results.

    Args:
        encoder: the model, with a name and a revision of its own.
        task: from ``load_tasks``.
        folder: mteb's results go to, and are taken from, ``folder/results``.
        options: further ones of `evaluate_task`.

    Returns:
        mteb's result, and the examples, empty for a task that is neither STS nor retrieval.
    """
    model = encoder.name.replace("/", "__")
    file = folder / "examples" / model / encoder.revision / f"{task.metadata.name}.json"
    known: Examples = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    watched, examples = _watched(task)
    if examples is not None and not known:
        options["overwrite_strategy"] = "always"  # a run may have been stopped between mteb's file and ours
    with tempfile.TemporaryDirectory() as predictions:
        if _is_sts(task):
            options["prediction_folder"] = predictions
        result = evaluate_task(encoder, watched, results_dir=str(folder), **options)
        new = _read_similarities(task, Path(predictions)) if _is_sts(task) else examples or {}
    if new:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(known | new), encoding="utf-8")
    return result, known | new


def difference_interval(task: "AbsTask", a: Examples, b: Examples) -> Interval | None:
    """Where the difference of the main scores x 100, ``b`` minus ``a``, lies with 95 %; None: not known.

    Examples are drawn anew within each subset and split of the task, whose means are then averaged as mteb does.
    """
    if not a or a.keys() != b.keys():
        return None
    parts = []
    for key in sorted(a):
        subset, split = key.rsplit("/", 1)
        if _is_sts(task):
            assert task.dataset is not None
            gold = task.dataset.get(subset, task.dataset)[split]["score"]
            parts.append(spearman_differences(gold, a[key], b[key]))
        else:
            parts.append(mean_differences(a[key], b[key]))
    return interval(100 * np.mean(parts, axis=0))


def _is_sts(task: "AbsTask") -> bool:
    from mteb.abstasks.sts import AbsTaskSTS

    return isinstance(task, AbsTaskSTS) and task.metadata.main_score in SIMILARITIES


def _watched(task: "AbsTask") -> "tuple[AbsTask, Examples | None]":
    """A copy of the task that notes its queries' scores in what is returned with it; None: it has no examples."""
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    metric = re.fullmatch(r"(\w+)_at_(\d+)", task.metadata.main_score)
    if not isinstance(task, AbsTaskRetrieval) or metric is None or metric[1] not in QUERY_SCORES:
        return task, {} if _is_sts(task) else None
    name, found, watched = f"{QUERY_SCORES[metric[1]]}_{metric[2]}", {}, copy(task)

    def note(scores: Any, qrels: Any, results: Any, hf_split: str, hf_subset: str) -> dict[str, float]:
        found[f"{hf_subset}/{hf_split}"] = [scores[query][name] for query in sorted(scores)]
        return task.task_specific_scores(scores, qrels, results, hf_split, hf_subset)

    watched.task_specific_scores = note  # type: ignore[method-assign]
    return watched, found


def _read_similarities(task: "AbsTask", folder: Path) -> Examples:
    """What mteb wrote of the pairs that it has just compared."""
    file = folder / task.prediction_file_name
    if not file.is_file():
        return {}
    subsets = json.loads(file.read_text(encoding="utf-8"))
    subsets.pop("mteb_model_meta")
    ranked = SIMILARITIES[task.metadata.main_score]
    return {f"{subset}/{split}": found[ranked] for subset, of in subsets.items() for split, found in of.items()}
