"""Results of models on MTEB tasks, with the score of each example, kept in files and taken from there.

mteb is imported inside functions only: importing it takes seconds and reseeds every random number generator.
"""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.mteb.example_scores import ExampleScores, evaluate_with_example_scores, has_example_scores, subset_splits
from callbacks.mteb.mteb_encoder import MtebEncoder
from modules.distributed import fail_together, from_main, is_main_process
from modules.json_files import read_kept_json

if TYPE_CHECKING:
    from mteb import AbsTask
    from mteb.results import TaskResult

SETTINGS = "run_settings.jsonl"
"""mteb's record of how the tasks of a model were evaluated, which it goes on with."""


def evaluate_cached(
    encoder: MtebEncoder, task: "AbsTask", folder: Path, **options: Any
) -> "tuple[TaskResult, ExampleScores]":
    """Score a model on a loaded task, unless `folder` has the result for this model, revision and task.

    With ``torch.distributed`` all processes must enter: the main one alone reads and writes `folder`, and all return
    the same.

    Args:
        encoder: the model, with a name and a revision of its own.
        task: from ``load_tasks``.
        folder: mteb's results go to, and are taken from, ``folder/results``, example scores ``folder/examples``.
        options: further arguments of `evaluate_task`.

    Returns:
        mteb's result for the subsets and splits of `task`, and the example scores: empty for a task that has none, see
        `has_example_scores`.
    """
    results = Path("results") / encoder.mteb_model_meta.model_name_as_path() / encoder.revision
    with fail_together():
        kept = _read_kept(encoder, task, folder, folder / results) if is_main_process() else ({}, {})
    files, scores = from_main(kept)
    # mteb reads and writes a folder of this process's own, so that no process ever sees half a file of another.
    with fail_together(), tempfile.TemporaryDirectory() as own:
        for name, text in files.items():
            _write(Path(own) / results / name, text)
        found, new = evaluate_with_example_scores(encoder, task, Path(own) / "predictions", results_dir=own, **options)
        scores = scores | new
        if is_main_process():
            if new:
                place = example_scores_file(folder, encoder.name, encoder.revision, task.metadata.name)
                _write(place, json.dumps(scores))
            _keep_new_files(Path(own) / results, folder / results, files, last=_result_file(task))
        result = type(found).from_disk(Path(own) / results / _result_file(task))
    wanted = {key: scores[key] for key in subset_splits(task) if key in scores}
    return result.validate_and_filter_scores(task), wanted


def read_example_scores(folder: Path, model: str, revision: str, task: str) -> ExampleScores:
    """Return the example scores that `evaluate_cached` has kept, of all subsets and splits; empty: none.

    Args:
        folder: as `evaluate_cached` was given it.
        model: the encoder's name.
        revision: the encoder's revision.
        task: the task's name.
    """
    file = example_scores_file(folder, model, revision, task)
    otherwise = f"what it says of the examples of {task} is missing"
    scores: ExampleScores = read_kept_json(file, {}, otherwise, rank_zero_info)
    return scores


def read_result(folder: Path, model: str, revision: str, task: "AbsTask") -> "TaskResult":
    """Return the result that `evaluate_cached` has kept, for the subsets and splits of a task.

    Args:
        folder: as `evaluate_cached` was given it.
        model: the encoder's name.
        revision: the encoder's revision.
        task: from ``load_tasks``.
    """
    from mteb.results import TaskResult

    place = folder / "results" / model.replace("/", "__") / revision / _result_file(task)
    return TaskResult.from_disk(place).validate_and_filter_scores(task)


def example_scores_file(folder: Path, model: str, revision: str, task: str) -> Path:
    """Return the path of the file that `read_example_scores` reads."""
    return folder / "examples" / model.replace("/", "__") / revision / f"{task}.json"


def _result_file(task: "AbsTask") -> str:
    return f"{task.metadata.name}.json"


def _read_kept(
    encoder: MtebEncoder, task: "AbsTask", folder: Path, results: Path
) -> tuple[dict[str, str], ExampleScores]:
    """Return mteb's files by name, without a result that lacks its example scores, and the example scores."""
    name = _result_file(task)
    scores = read_example_scores(folder, encoder.name, encoder.revision, task.metadata.name)
    result = read_kept_json(results / name, {}, f"{task.metadata.name} is scored again", rank_zero_info)
    if not result:
        return {}, scores
    files = {file: results / file for file in (name, SETTINGS) if (results / file).is_file()}
    scored = {f"{score['hf_subset']}/{split}" for split, of in result["scores"].items() for score in of}
    if has_example_scores(task) and (scored & set(subset_splits(task))) - scores.keys():
        files.pop(name, None)
    return {file: path.read_text(encoding="utf-8") for file, path in files.items()}, scores


def _keep_new_files(written: Path, kept: Path, before: dict[str, str], last: str) -> None:
    """Copy the files that mteb has written or changed; the one that says that the others are there goes last."""
    for path in sorted(written.iterdir(), key=lambda path: path.name == last):
        text = path.read_text(encoding="utf-8")
        if text != before.get(path.name):
            _write(kept / path.name, text)


def _write(path: Path, text: str) -> None:
    """Write a file aside and rename it, so that a run that is stopped leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
