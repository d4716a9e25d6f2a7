"""A data set of a million rows: seconds until the first batch, memory, and texts a second from then on.

    python benchmarks/data.py --rows 1000000

Makes pairs of about a dozen words, seeded, as JSONL in a temporary folder, and trains on them with a module that does
nothing, in two processes one after the other, with a cache of their own: the second finds what the first has prepared.
Seconds begin after the imports and when the tokenizer is loaded. Memory is the peak of PSS beyond that at this time.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

BATCH, BATCHES = 64, 3000
SECONDS = {"first": 180, "second": 5}
MEGABYTES, TEXTS_A_SECOND = 500, 2000
"""Targets."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)  # of a process that measures
    options = parser.parse_args()
    if options.file is not None:
        print(json.dumps(measure(options.file, options.model)))
        return
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.jsonl"
        write_pairs(file, options.rows)
        print(f"{options.rows:,} pairs, {file.stat().st_size / 1e6:,.0f} MB of JSONL, {os.cpu_count()} cores")
        for name, seconds in SECONDS.items():
            command = [sys.executable, __file__, "--model", options.model, "--file", str(file)]
            cache = {"HF_DATASETS_CACHE": f"{folder}/cache", "TOKENIZERS_PARALLELISM": "false"}
            done = subprocess.run(command, env=os.environ | cache, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(f"the {name} time, with {found['processor']:,.0f} seconds of processor time until the first batch:")
            say("seconds until the first batch", found["seconds"], seconds, found["seconds"] <= seconds)
            say("MB of PSS beyond imports", found["megabytes"], MEGABYTES, found["megabytes"] <= MEGABYTES)
            say("texts a second", found["texts"], TEXTS_A_SECOND, found["texts"] >= TEXTS_A_SECOND)


def say(what: str, found: float, target: float, met: bool) -> None:
    print(f"  {what:<30} {found:10,.1f}   target {target:6,}: {'met' if met else 'MISSED'}", flush=True)


def write_pairs(file: Path, rows: int) -> None:
    """Write pairs of 8 to 16 words, as frequent as they are in Python's documentation."""
    from datamodules import load_python_docs

    texts = load_python_docs("retrieval")[0]
    words = np.array([word for column in texts for text in column for word in text.split() if word.isalpha()])
    draw = np.random.default_rng(0)
    with open(file, "w", encoding="utf-8") as lines:
        for _ in range(rows):
            anchor, positive = (
                " ".join(words[draw.integers(len(words), size=length)]) for length in draw.integers(8, 17, 2)
            )
            lines.write(json.dumps({"anchor": anchor, "positive": positive}) + "\n")


def measure(file: Path, model: str) -> dict[str, float]:
    """Train on a file for some batches: seconds until the first, memory, texts a second."""
    import torch
    from lightning import LightningModule, Trainer

    from datamodules import DataSource, TaskDataModule, load_tasks
    from datamodules.collate import Tokenize
    from modules import TextEncoder
    from modules.encoding.prompts import prompts_by_side
    from modules.losses.task_batch import TaskBatch

    encoder = TextEncoder.load(model)

    class Idle(LightningModule):
        side_prompts = prompts_by_side(encoder.prompts, encoder.default_prompt_name)

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.times: list[float] = []
            self.processor = 0.0

        def tokenization(self, max_length: int | None = None) -> Tokenize:
            return encoder.tokenization(max_length)

        def training_step(self, batch: TaskBatch, batch_idx: int) -> None:
            self.processor = self.processor or time.process_time()
            self.times.append(time.perf_counter())

        def configure_optimizers(self) -> None:
            return None

    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    torch.set_num_threads(1)
    module, before = Idle(), pss()
    with peak_pss() as peak:
        started, processor = time.perf_counter(), time.process_time()
        tasks = load_tasks([DataSource(str(file))], probe_size=1024, validation_size=256)
        trainer = Trainer(max_epochs=1, limit_train_batches=BATCHES, limit_val_batches=0, accelerator="cpu", **quiet)
        trainer.fit(module, TaskDataModule(list(tasks.values()), batch_size=BATCH))
    took = module.times[-1] - module.times[0]
    return {
        "seconds": module.times[0] - started,
        "processor": module.processor - processor,
        "megabytes": (max(peak) - before) / 1e6,
        "texts": 2 * BATCH * (len(module.times) - 1) / took,
    }


@contextmanager
def peak_pss() -> Iterator[list[int]]:
    """Bytes of PSS, sampled in this block."""
    samples, over = [pss()], threading.Event()

    def sample() -> None:
        while not over.wait(0.1):
            samples.append(pss())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def pss() -> int:
    """Bytes of this process; pages that it shares with others count in part."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")))


if __name__ == "__main__":
    main()
