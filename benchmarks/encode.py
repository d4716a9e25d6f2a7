"""Texts embedded a second, by this package and by sentence-transformers.

    python benchmarks/encode.py --texts 1000 --runs 5

Distinct texts of mixed lengths (of ../shared/data where it is there, else Python's documentation), the same model,
the same process, interleaved, medians. Target: 1.1 times sentence-transformers at its best batch size.
"""

import argparse
import random
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from datamodules.sources.data_source import DataSource
from datamodules.sources.python_docs import load_python_docs
from datamodules.sources.task_loading import load_task
from modules import TextEncoder
from modules.checkpoints.base_model import find_base_model

DATA = Path(__file__).parents[2] / "shared/data/train"
SETS = ("stsb", "nfcorpus-train", "medquad", "flickr8k_pairs")
BATCH_SIZES = (32, 16, 64)
"""sentence-transformers' default first."""
TARGET = 1.1


def distinct_texts(count: int) -> list[str]:
    """So many distinct texts, drawn at random, always the same, in equal shares from the data sets."""
    if DATA.is_dir():
        columns = [load_task(DataSource(str(DATA / name / "train.jsonl.gz"))).texts for name in SETS]
    else:
        columns = [load_python_docs(name).texts for name in ("retrieval", "relatedness")]
    texts: list[str] = []
    for column in columns:
        distinct = sorted({text for texts_of_column in column for text in texts_of_column} - set(texts))
        texts += random.Random(0).sample(distinct, min(len(distinct), count // len(columns)))
    return random.Random(0).sample(texts, len(texts))


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = distinct_texts(options.texts)
    folder = find_base_model(options.model)
    ours, theirs = TextEncoder.load(folder), SentenceTransformer(str(folder), device="cpu")
    ways: dict[str, Callable[[], object]] = {"ours": partial(ours.encode, texts)}
    ways |= {f"theirs, {size}": partial(theirs.encode, texts, batch_size=size) for size in BATCH_SIZES}
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for way in (ours.encode, theirs.encode):
        way(texts[:8])  # what only the first call pays
    for _ in range(options.runs):
        for name, way in ways.items():
            took[name].append(seconds(way))
            if len(took[name]) == 1:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(f"peak RSS until the first run of {name}: {peak:.0f} MB", flush=True)
    report(took, len(texts))


def report(took: dict[str, list[tuple[float, float]]], count: int) -> None:
    """Print a line a way: medians, and how many times as long it took as ours."""
    medians = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in took.items()}
    for name, (wall, cpu) in medians.items():
        ratio, cpu_ratio = wall / medians["ours"][0], cpu / medians["ours"][1]
        print(f"{name:>10}: {count / wall:6.0f} texts/s; time {ratio:.2f}x ours, processor time {cpu_ratio:.2f}x ours")
    best = min(wall for name, (wall, _) in medians.items() if name != "ours") / medians["ours"][0]
    print(f"{best:.2f}x their best; target {TARGET}x: {'met' if best >= TARGET else 'MISSED'}")


if __name__ == "__main__":
    main()
