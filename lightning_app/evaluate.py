"""Scoring models on MTEB tasks, as stages."""

import json
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks import MtebEncoder, evaluate_tasks, load_tasks
from datamodules.python_docs import held_out_fingerprint
from lightning_app.model import Model
from lightning_app.stages import Stage, StageGraph, is_main_process
from modules import TextEncoder
from modules.tokenized_texts import TokenizedTexts

FILE = "scores.json"


class Scorer:
    """Scores models on one list of tasks; the tasks' data is read, and tokenised, once, when the first model is scored.

    Args:
        tasks: names of MTEB tasks.
        data_root: a mirror of hub data sets.
        batch_size: texts a forward pass, about; see `encode_texts`.
        device: where models are put; the same on every call of a process.
    """

    def __init__(self, tasks: list[str], data_root: str | None, batch_size: int, device: torch.device) -> None:
        self.tasks = tasks
        self.data_root = data_root
        self.batch_size = batch_size
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

        content = {"tasks": self.tasks, "given": model.identity()}
        if any(task.startswith("PythonDocs") for task in self.tasks):
            content["python_docs"] = held_out_fingerprint()  # another environment has other documentation
        return Stage("scores", model.name, content, run, model.inputs)

    def score(self, folder: str) -> dict[str, float]:
        """Task name to main score x 100 of the model in a folder; float32."""
        encoder = MtebEncoder(TextEncoder.load(folder).to(self.device), name=folder, tokenized=self.tokenized)
        tasks = load_tasks(self.tasks, self.data_root)
        return evaluate_tasks(encoder, tasks, batch_size=self.batch_size, progress=True)


def read_scores(folder: Path) -> dict[str, float]:
    """What a scores stage wrote."""
    scores: dict[str, float] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return scores
