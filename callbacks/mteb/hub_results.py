"""Scores of a model on MTEB tasks in the forms in which the Hugging Face hub reads them.

mteb is imported inside functions only: importing it takes seconds and reseeds every random number generator.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from callbacks.mteb.task_cap import full_name
from callbacks.mteb.task_evaluation import main_score
from callbacks.mteb.task_selection import known_names
from modules.model_card.finding import Evaluation

if TYPE_CHECKING:
    from mteb import TaskMetadata
    from mteb.results import TaskResult

SOURCE = "https://github.com/embeddings-benchmark/mteb/"


def hub_results(results: "Mapping[str, TaskResult]") -> Evaluation:
    """Return the results for a model card: all for its ``model-index``, and those of whole MTEB tasks as files.

    Capped tasks and tasks that are not mteb's get no file: the hub takes a file for the score of the whole task.

    Args:
        results: task to mteb's result, for the subsets and splits that were evaluated.
    """
    from mteb.get_tasks import TASK_LIST

    known = known_names()
    # A loaded task may name the mirror that its data was read from in the place of the data set.
    about = {name: known[full_name(name)].metadata for name in results}
    whole = [name for name in results if name in {task.metadata.name for task in TASK_LIST}]
    index = [entry for name, result in results.items() for entry in _index(name, about[name], result)]
    return Evaluation(index, {f"{name}.yaml": _file(about[name], results[name]) for name in whole})


def _index(name: str, about: "TaskMetadata", result: "TaskResult") -> Iterator[EvalResult]:
    """Yield the results of all subsets and splits, as mteb's `TaskResult.get_hf_eval_results` has them."""
    for split, scores in result.scores.items():
        for score in scores:
            yield EvalResult(
                task_type=about._hf_task_type()[0],
                task_name=about.type,
                dataset_type=about.dataset["path"],
                dataset_name=f"{name} ({score['hf_subset']})",
                dataset_config=score["hf_subset"],
                dataset_split=split,
                dataset_revision=about.dataset["revision"],
                metric_type=about.main_score,
                metric_name=about.main_score,
                metric_value=float(score["main_score"]),
                source_name="MTEB",
                source_url=SOURCE,
            )


def _file(about: "TaskMetadata", result: "TaskResult") -> str:
    """Return a file of ``.eval_results``, as mteb's `ModelResult.push_model_results` writes it."""
    scores = {
        f"{about.name}_{score['hf_subset']}_{split}": 100 * float(score["main_score"])
        for split, of in result.scores.items()
        for score in of
    }
    subsets = {score["hf_subset"] for of in result.scores.values() for score in of}
    if result.scores.keys() == set(about.eval_splits) and subsets == set(about.hf_subsets):
        scores[about.name] = main_score(result)
    notes = f"Obtained using MTEB v{result.mteb_version}"
    entries = [
        EvalResultEntry(
            dataset_id=about.dataset["path"],
            task_id=task_id,
            value=round(score, 5),
            dataset_revision=about.dataset["revision"],
            date=result.date.date().isoformat() if result.date else None,
            source_url=SOURCE,
            source_name=notes,
            notes=notes,
        )
        for task_id, score in scores.items()
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
