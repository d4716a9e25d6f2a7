"""Time ``merge --learn``: two experts of MiniLM, merged at a position that is learned on 500 rows.

    python benchmarks/learn_merge.py

The experts are trained for a few steps on the documentation of Python's own packages, the rows are of the same two data
sets, none of them trained on. Prints what the command prints, then its seconds.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning import Trainer

from datamodules import DataSource, SplitTask, TaskDataModule, load_tasks
from modules import ContrastiveModule

BASE = "sentence-transformers/all-MiniLM-L6-v2"
TASKS = ("retrieval", "relatedness")


def main() -> None:
    """Make experts and rows, and run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500, help="rows of both files together (500)")
    parser.add_argument("--steps", type=int, default=8, help="optimiser steps of an expert (8)")
    options = parser.parse_args()
    sources = {task: DataSource("python_docs", task=task) for task in TASKS}
    tasks = load_tasks(sources, probe_size=options.rows // len(TASKS), validation_size=0)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        experts = [train(task, place / name, options.steps) for name, task in tasks.items()]
        files = [write_pairs(tasks["retrieval"], place), write_graded(tasks["relatedness"], place)]
        command = ["--learn", *files, "--base", BASE, "--experts", *experts, "--out", str(place / "merged")]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lightning_app", "merge", *command], check=True)
        wall, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime
        print(f"\n{options.rows} rows, {len(experts)} experts: {wall:.0f} s, {cpu:.0f} CPU seconds")


def train(task: SplitTask, folder: Path, steps: int) -> str:
    """Train an expert, and return its folder."""
    expert = ContrastiveModule(BASE)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    Trainer(max_steps=steps, limit_val_batches=0, **quiet).fit(expert, datamodule=TaskDataModule([task], max_length=64))
    expert.save(folder)
    return str(folder)


def write_pairs(task: SplitTask, folder: Path) -> str:
    """Write rows that no expert has seen as JSON lines, and return the file."""
    rows = zip(*task.probe.texts, strict=True)
    path = folder / "faq.jsonl"
    path.write_text("".join(json.dumps({"anchor": a, "positive": b}) + "\n" for a, b in rows), encoding="utf-8")
    return str(path)


def write_graded(task: SplitTask, folder: Path) -> str:
    """Write rows that no expert has seen as CSV, and return the file."""
    path = folder / "similarity.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = zip(*task.probe.texts, task.probe.target, strict=True)
        csv.writer(file).writerows([("sentence1", "sentence2", "score"), *rows])
    return str(path)


if __name__ == "__main__":
    main()
