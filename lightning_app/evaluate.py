"""Scoring models on MTEB tasks: saved ones task by task, with a memory, and as stages."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks import MtebCallback, MtebEncoder, evaluate_tasks
from callbacks.mteb.example_scores import ExampleScores
from callbacks.mteb.mteb_encoder import Encoder
from callbacks.mteb.result_cache import evaluate_cached, read_example_scores
from callbacks.mteb.task_evaluation import main_score
from callbacks.mteb.task_fingerprint import task_fingerprint
from callbacks.mteb.task_texts import count_texts
from lightning_app.loading import Loading
from lightning_app.model import Model
from lightning_app.stages import Stage, StageGraph, is_main_process, safe_name
from modules import TextEncoder
from modules.checkpoints.identity import identity
from modules.distributed import fail_together, from_main
from modules.encoding.tokenized_texts import TokenizedTexts
from modules.json_files import read_json, write_json

if TYPE_CHECKING:
    from mteb import AbsTask

FILE = "scores.json"

SCORED = "scored.json"
"""Beside the scores: task to the name and revision under which the score cache has the model."""


@dataclass(frozen=True)
class ScoredTask:
    """Score of a saved model on a task.

    Args:
        task: its name.
        score: the main score x 100.
        seconds: that the evaluation took, in this run or in the one that the result is taken from.
        examples: scores of the model on each example.
        model: the name under which mteb's files have the model.
        revision: likewise.
    """

    task: str
    score: float
    seconds: float
    examples: ExampleScores
    model: str
    revision: str


def score_tasks(
    encoder: TextEncoder,
    model: str,
    tasks: "Sequence[AbsTask]",
    folder: Path,
    name_of: Callable[[str], str],
    *,
    prompts: Mapping[str, str],
    precision: str,
    tokenized: TokenizedTexts,
    batch_size: int,
) -> Iterator[ScoredTask]:
    """Score a saved model task by task; what `folder` has already is not computed again.

    Args:
        encoder: the model, on its device.
        model: the folder or hub name that it was loaded from.
        tasks: with their data.
        folder: see `evaluate_cached`.
        name_of: revision to the model's name in mteb's files.
        prompts: win over the model's own.
        precision: what the model computes in.
        tokenized: shared by all that is scored on these tasks.
        batch_size: texts in one forward pass.
    """
    sha256 = identity(model).digest()
    wrapped = MtebEncoder(encoder, prompts=prompts, precision=precision, tokenized=tokenized, progress=True)
    for task in tasks:
        this = revision(encoder, sha256, prompts, precision, task)
        one = wrapped.renamed(name_of(this), this)
        result, examples = evaluate_cached(one, task, folder, batch_size=batch_size)
        seconds = result.evaluation_time or 0.0
        yield ScoredTask(task.metadata.name, main_score(result), seconds, examples, one.name, this)


def revision(encoder: TextEncoder, sha256: str, prompts: Mapping[str, str], precision: str, task: "AbsTask") -> str:
    """Return a hash of all that determines a score: the model, how it is read, prompts, the task and its data.

    Args:
        encoder: the model.
        sha256: of the model's identity.
        prompts: win over the model's own.
        precision: what the model computes in.
        task: with its data.
    """
    dtype = str(next(encoder.parameters()).dtype)
    parts = [sha256, dtype, encoder.described(), dict(prompts), precision, task_fingerprint(task)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def scoring_content(mteb: MtebCallback) -> dict[str, Any]:
    """Return all that scores depend on beside the model: the tasks, which are read for it, and how they are scored."""
    tasks = [[task.metadata.name, task_fingerprint(task)] for task in mteb.load()]
    return {"tasks": tasks, "prompts": mteb.prompts, "precision": mteb.precision}


class Scorer:
    """Scores models on the tasks of a recipe; the tasks' data is read, and tokenised, once, for the first model.

    Args:
        mteb: the recipe's settings.
        device: where models are put; the same on every call of a process.
        loading: how models are loaded.
    """

    def __init__(self, mteb: MtebCallback, device: torch.device, loading: Loading) -> None:
        self.mteb = mteb
        self.device = device
        self.loading = loading
        self.tokenized = TokenizedTexts()

    def stage(self, model: Model, graph: StageGraph) -> Stage:
        """Return the stage that scores a model; a task on which equal weights were scored before is not scored again.

        Args:
            model: whose weights.
            graph: knows where they lie.
        """

        def run(where: Path) -> None:
            scored = self.score(model, graph)
            if is_main_process():
                write_json(where / FILE, {found.task: found.score for found in scored})
                write_json(where / SCORED, {found.task: [found.model, found.revision] for found in scored})
            rank_zero_info("  " + ", ".join(f"{found.task} {found.score:.2f}" for found in scored))

        content = self.content | {"given": model.identity(self.loading)}
        return Stage("scores", model.name, content, run, model.inputs, self.texts)

    @cached_property
    def content(self) -> dict[str, Any]:
        """All that scores depend on beside the model."""
        return scoring_content(self.mteb)

    @cached_property
    def texts(self) -> int:
        """Number of distinct texts of the tasks."""
        return count_texts(self.mteb.load())

    def score(self, model: Model, graph: StageGraph) -> list[ScoredTask]:
        """Return the score of a model on each task, from the graph's score cache where that has it.

        Args:
            model: whose stage has run.
            graph: knows where it lies.
        """
        folder, tasks = model.folder(graph), self.mteb.load()
        scored = score_tasks(
            self.loading.load(folder).to(self.device),
            folder,
            tasks,
            graph.score_cache,
            lambda revision: _name_in(graph.score_cache, revision, f"local/{safe_name(model.name)}"),
            prompts=self.mteb.prompts,
            precision=self.mteb.precision,
            tokenized=self.tokenized,
            batch_size=self.mteb.batch_size,
        )
        return list(scored)

    def score_encoder(self, encoder: Encoder, name: str) -> dict[str, float]:
        """Task name to main score x 100 of a model that is loaded already.

        Args:
            encoder: the model, on its device.
            name: what mteb calls it.
        """
        wrapped = MtebEncoder(
            encoder,
            name=name,
            prompts=self.mteb.prompts,
            precision=self.mteb.precision,
            tokenized=self.tokenized,
            progress=True,
        )
        return evaluate_tasks(wrapped, self.mteb.load(), batch_size=self.mteb.batch_size)


def read_scores(folder: Path) -> dict[str, float]:
    """Return the scores that a stage wrote."""
    scores: dict[str, float] = read_json(folder / FILE)
    return scores


def read_examples(folder: Path, cache: Path) -> dict[str, ExampleScores]:
    """Return the example scores of the model of a scores stage on each task.

    Args:
        folder: the stage's.
        cache: the score cache of its graph.

    Returns:
        Task to examples; a task without any is not among them, and none is that was scored by a version that kept none.
    """
    scored: dict[str, list[str]] = read_json(folder / SCORED, default={})
    found = {task: read_example_scores(cache, model, revision, task) for task, (model, revision) in scored.items()}
    return {task: examples for task, examples in found.items() if examples}


def _name_in(cache: Path, revision: str, otherwise: str) -> str:
    """Return the name under which a score cache has a revision, whichever stage scored equal weights first."""
    with fail_together():
        found = sorted(cache.glob(f"results/local__*/{revision}")) if is_main_process() else []
    return from_main(found[0].parent.name.replace("__", "/", 1) if found else otherwise)
