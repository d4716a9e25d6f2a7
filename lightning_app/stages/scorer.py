"""Scoring models on MTEB tasks: saved ones task by task, with a memory, and loaded ones."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from callbacks import MtebCallback, MtebEncoder, evaluate_tasks
from callbacks.mteb.example_scores import ExampleScores
from callbacks.mteb.mteb_encoder import Encoder
from callbacks.mteb.result_cache import evaluate_cached
from callbacks.mteb.task_evaluation import main_score
from callbacks.mteb.task_fingerprint import task_fingerprint
from callbacks.mteb.task_texts import count_texts
from lightning_app.stages.model import Model
from lightning_app.stages.stage import ResultFolders
from lightning_app.stages.stage_graph import safe_name
from modules import TextEncoder
from modules.checkpoints.identity import identity
from modules.distributed import fail_together, from_main, is_main_process
from modules.encoding.tokenized_texts import TokenizedTexts

if TYPE_CHECKING:
    from mteb import AbsTask


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
    """

    def __init__(self, mteb: MtebCallback, device: torch.device) -> None:
        self.mteb = mteb
        self.device = device
        self.tokenized = TokenizedTexts()

    def key_content(self) -> dict[str, Any]:
        """Return all that scores depend on beside the model."""
        return self._content

    @cached_property
    def _content(self) -> dict[str, Any]:
        return scoring_content(self.mteb)

    @cached_property
    def texts(self) -> int:
        """Number of distinct texts of the tasks."""
        return count_texts(self.mteb.load())

    def score(self, model: Model, graph: ResultFolders) -> list[ScoredTask]:
        """Return the score of a model on each task, from the graph's score cache where that has it.

        Args:
            model: whose stage has run.
            graph: knows where it lies.
        """
        folder, tasks = model.folder(graph), self.mteb.load()
        scored = score_tasks(
            model.loading.load(folder).to(self.device),
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


def _name_in(cache: Path, revision: str, otherwise: str) -> str:
    """Return the name under which a score cache has a revision, whichever stage scored equal weights first."""
    with fail_together():
        found = sorted(cache.glob(f"results/local__*/{revision}")) if is_main_process() else []
    return from_main(found[0].parent.name.replace("__", "/", 1) if found else otherwise)
