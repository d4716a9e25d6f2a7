"""Scoring models on MTEB tasks, as stages."""

import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks import MtebCallback, MtebEncoder, evaluate_tasks
from callbacks.mteb_encoder import Encoder
from callbacks.task_texts import task_texts
from datamodules.python_docs import held_out_fingerprint
from lightning_app.model import Model
from lightning_app.stages import Stage, StageGraph, is_main_process
from modules import TextEncoder
from modules.tokenized_texts import TokenizedTexts

FILE = "scores.json"


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

    def stage(self, model: Model, graph: StageGraph) -> Stage:
        """The stage that scores a model.

        Args:
            model: whose weights.
            graph: knows where they lie.
        """

        def run(where: Path) -> None:
            scores = self.score(model.folder(graph))
            if is_main_process():
                (where / FILE).write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
            rank_zero_info("  " + ", ".join(f"{task} {score:.2f}" for task, score in scores.items()))

        content = self.content() | {"given": model.identity()}
        return Stage("scores", model.name, content, run, model.inputs, self.texts)

    def content(self) -> dict[str, Any]:
        """All that scores depend on beside the model."""
        content = {key: value for key, value in asdict(self.mteb.selection).items() if value or key == "tasks"}
        if self.mteb.precision != "float32":  # where it is, the key is that of a stage from before there was a choice
            content["precision"] = self.mteb.precision
        if self.mteb.prompts:
            content["prompts"] = self.mteb.prompts
        if any(task.startswith("PythonDocs") for task in self.mteb.selection.tasks):
            content["python_docs"] = held_out_fingerprint()  # another environment has other documentation
        return content

    @cached_property
    def texts(self) -> int:
        """How many distinct texts the tasks have."""
        return len({text for task in self.mteb.load() for text in task_texts(task)})

    def score(self, folder: str) -> dict[str, float]:
        """Task name to main score x 100 of the model in a folder."""
        encoder = TextEncoder.load(folder).to(self.device)
        return self.score_encoder(encoder, folder)

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


def read_scores(folder: Path) -> dict[str, float]:
    """What a scores stage wrote."""
    scores: dict[str, float] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return scores
