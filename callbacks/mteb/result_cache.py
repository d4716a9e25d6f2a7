"""mteb's result of a model on a task, and what the model made of each example, kept in files and taken from there.

mteb is imported inside functions only: importing it takes seconds and reseeds every random number generator.
"""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.mteb.example_scores import ExampleScores, evaluate_with_example_scores, has_example_scores, parts
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
    """Score a model on a loaded task, and keep what it made of each example beside mteb's results.

    What `folder` has of this model, revision and task is not computed again. With ``torch.distributed`` all processes
    must enter: the main one alone reads and writes `folder`, and all return the same.

    Args:
        encoder: the model, with a name and a revision of its own.
        task: from ``load_tasks``.
        folder: mteb's results go to, and are taken from, ``folder/results``, the examples ``folder/examples``.
        options: further ones of `evaluate_task`.

    Returns:
        mteb's result for the subsets and splits of `task`, as its file has it, and the examples: empty for a task that
        has none, see `has_example_scores`.
    """
    place = Path("results") / encoder.mteb_model_meta.model_name_as_path() / encoder.revision
    name = f"{task.metadata.name}.json"
    with fail_together():
        kept = _read_kept(encoder, task, folder, folder / place) if is_main_process() else ({}, {})
    files, examples = from_main(kept)
    # mteb reads and writes a folder of this process's own, so that no process ever sees half a file of another.
    with fail_together(), tempfile.TemporaryDirectory() as own:
        for file, text in files.items():
            _write(Path(own) / place / file, text)
        found, new = evaluate_with_example_scores(encoder, task, Path(own) / "predictions", results_dir=own, **options)
        examples = examples | new
        if is_main_process():
            if new:
                _write(
                    example_scores_file(folder, encoder.name, encoder.revision, task.metadata.name),
                    json.dumps(examples),
                )
            for path in sorted((Path(own) / place).iterdir(), key=lambda path: path.name == name):  # the result last
                text = path.read_text(encoding="utf-8")
                if text != files.get(path.name):
                    _write(folder / place / path.name, text)
        result = type(found).from_disk(Path(own) / place / name)
    return result.validate_and_filter_scores(task), {part: examples[part] for part in parts(task) if part in examples}


def read_example_scores(folder: Path, model: str, revision: str, task: str) -> ExampleScores:
    """Return the examples that `evaluate_cached` has kept, of all subsets and splits; empty: none.

    Args:
        folder: as it was given there.
        model: the encoder's name.
        revision: the encoder's.
        task: the task's name.
    """
    file = example_scores_file(folder, model, revision, task)
    examples: ExampleScores = read_kept_json(
        file, {}, f"what it says of the examples of {task} is missing", rank_zero_info
    )
    return examples


def example_scores_file(folder: Path, model: str, revision: str, task: str) -> Path:
    """Return the path of the file that `read_example_scores` reads."""
    return folder / "examples" / model.replace("/", "__") / revision / f"{task}.json"


def _read_kept(
    encoder: MtebEncoder, task: "AbsTask", folder: Path, place: Path
) -> tuple[dict[str, str], ExampleScores]:
    """Return mteb's files by name, without a result that lacks its examples, and the examples that are there."""
    name = f"{task.metadata.name}.json"
    examples = read_example_scores(folder, encoder.name, encoder.revision, task.metadata.name)
    kept = read_kept_json(place / name, {}, f"{task.metadata.name} is scored again", rank_zero_info)
    files = {file: (place / file).read_text(encoding="utf-8") for file in (name, SETTINGS) if (place / file).is_file()}
    if not kept:
        return {}, examples
    scores = kept["scores"]
    scored = {f"{score['hf_subset']}/{split}" for split, of in scores.items() for score in of}
    if has_example_scores(task) and (scored & set(parts(task))) - examples.keys():
        files.pop(name, None)
    return files, examples


def _write(path: Path, text: str) -> None:
    """Written aside and renamed, so that a run that is stopped leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
