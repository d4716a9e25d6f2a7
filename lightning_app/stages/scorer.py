"""Scoring models on MTEB tasks: saved ones task by task, with a memory, and loaded ones."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from callbacks import MtebCallback, MtebEncoder, evaluate_tasks
from callbacks.example_values import Examples
from callbacks.examples import evaluate_examples
from callbacks.mteb_encoder import Encoder
from callbacks.mteb_tasks import main_score
from callbacks.task_fingerprint import task_fingerprint
from callbacks.task_texts import task_texts
from lightning_app.stages.model import Model
from lightning_app.stages.stage_graph import StageGraph, safe_name
from modules import TextEncoder
from modules.checkpoints.identity import identity
from modules.distributed import from_main, is_main_process, together
from modules.encoding.tokenized_texts import TokenizedTexts

if TYPE_CHECKING:
    from mteb import AbsTask


@dataclass(frozen=True)
class ScoredTask:
    """What a saved model got on a task.

    Args:
        task: its name.
        score: the main score x 100.
        seconds: that the evaluation took, in this run or in the one that the result is taken from.
        examples: what the model made of each example.
        model: the name under which mteb's files have the model.
        revision: likewise.
    """

    task: str
    score: float
    seconds: float
    examples: Examples
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
        folder: see `evaluate_examples`.
        name_of: revision to the model's name in mteb's files.
        prompts: win over the model's own.
        precision: what the model computes in.
        tokenized: shared by all that is scored on these tasks.
        batch_size: texts in one forward pass.
    """
    sha256 = identity(model).digest()
    wrapped = MtebEncoder(encoder, prompts=prompts, precision=precision, tokenized=tokenized)
    for task in tasks:
        this = revision(encoder, sha256, prompts, precision, task)
        one = wrapped.called(name_of(this), this)
        result, examples = evaluate_examples(one, task, folder, batch_size=batch_size, progress=True)
        seconds = result.evaluation_time or 0.0
        yield ScoredTask(task.metadata.name, main_score(result), seconds, examples, one.name, this)


def revision(encoder: TextEncoder, sha256: str, prompts: Mapping[str, str], precision: str, task: "AbsTask") -> str:
    """A hash of all that determines a score on a task: the model, how it is read, prompts, the task and its data.

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
    """All that scores depend on beside the model: the tasks, which are read for it, and how they are scored."""
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
        """How many distinct texts the tasks have."""
        return len({text for task in self.mteb.load() for text in task_texts(task)})

    def score(self, model: Model, graph: StageGraph) -> list[ScoredTask]:
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
        return list(tqdm(scored, desc="MTEB", total=len(tasks), unit="task", leave=False))

    def score_encoder(self, encoder: Encoder, name: str) -> dict[str, float]:
        """Task name to main score x 100 of a model that is loaded already.

        Args:
            encoder: the model, on its device.
            name: what mteb calls it.
        """
        wrapped = MtebEncoder(
            encoder, name=name, prompts=self.mteb.prompts, precision=self.mteb.precision, tokenized=self.tokenized
        )
        return evaluate_tasks(wrapped, self.mteb.load(), batch_size=self.mteb.batch_size, progress=True)


def _name_in(cache: Path, revision: str, otherwise: str) -> str:
    """The name under which a score cache has a revision, whichever stage it was that scored equal weights first."""
    with together():
        found = sorted(cache.glob(f"results/local__*/{revision}")) if is_main_process() else []
    return from_main(found[0].parent.name.replace("__", "/", 1) if found else otherwise)
