"""Speed of expert training through a Trainer, and of the step of a position against a plain forward and backward."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.optim import Adam

from benchmarks.gpu.data import made_up_tasks
from benchmarks.gpu.models import Shape, noisy_vectors, random_batches, random_encoder, save_random
from benchmarks.gpu.training import make_trainer
from datamodules import TaskDataModule
from modules import ContrastiveModule, Slerp
from modules.distributed import local
from modules.losses.task_batch import TaskBatch
from modules.losses.task_loss import task_loss
from modules.merging.merge_method import Prepared
from modules.positioning.merged_encoder import MergedEncoder
from modules.positioning.position import Position
from modules.positioning.task_vectors import gram_matrices

EXPERTS = (2, 4, 8)
WARM_UP, RUNS = 2, 5


@dataclass(frozen=True)
class Cell:
    """A row of the table.

    Args:
        shape: of the model.
        job: ``expert``, ``plain`` (forward and backward of the base, all weights) or ``position, N = ...``.
        seconds: median of a step; None: not measured.
        pairs: in a step.
        memory: peak, in bytes; None on the CPU.
        reason: why it was not measured.
    """

    shape: str
    job: str
    seconds: float | None = None
    pairs: int = 0
    memory: int | None = None
    reason: str = ""

    def __str__(self) -> str:
        found = f"skipped: {self.reason}" if self.seconds is None else f"{self.seconds * 1000:.1f} ms a step"
        return f"{self.shape}, {self.job}: {found}"


def measure_speed(shapes: tuple[Shape, ...], device: torch.device, until: float) -> Iterator[Cell]:
    """Every cell of the table, each as soon as it is there.

    Args:
        shapes: of the models.
        device: where to.
        until: when, on `time.monotonic`'s clock, no further cell is begun.
    """
    for shape in shapes:
        jobs: dict[str, Callable[[], list[float]]] = {"expert": lambda shape=shape: _expert(shape, device)}
        jobs["plain"] = lambda shape=shape: _plain(shape, device)
        jobs |= {f"position, N = {n}": lambda shape=shape, n=n: _position(shape, device, n) for n in EXPERTS}
        for job, run in jobs.items():
            if time.monotonic() > until:
                yield Cell(shape.name, job, reason="no time was left")
                continue
            yield _measured(shape, job, run, device)


def _measured(shape: Shape, job: str, run: Callable[[], list[float]], device: torch.device) -> Cell:
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
    try:
        seconds = statistics.median(run())
    except torch.OutOfMemoryError:
        total = torch.cuda.get_device_properties(device).total_memory
        return Cell(shape.name, job, reason=f"more memory needed than the {total / 2**30:.0f} GiB of the card")
    memory = torch.cuda.max_memory_allocated(device) if cuda else None
    return Cell(shape.name, job, seconds, shape.rows, memory)


def _timed(step: Callable[[], None], device: torch.device) -> list[float]:
    """Seconds of each run of a step, after some that only warm up."""
    seconds = []
    for run in range(WARM_UP + RUNS):
        if run == WARM_UP:
            _forget_peak(device)
        started = _now(device)
        step()
        seconds.append(_now(device) - started)
    return seconds[WARM_UP:]


def _now(device: torch.device) -> float:
    """The time when all that was launched is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _backward(encoder: torch.nn.Module, batches: list[TaskBatch], device: torch.device) -> None:
    for batch in batches:
        with torch.autocast(device.type, torch.bfloat16):
            loss = task_loss(encoder, batch, local).loss / len(batches)
        loss.backward()


def _plain(shape: Shape, device: torch.device) -> list[float]:
    encoder = random_encoder(shape, device).eval()
    batches = random_batches(shape, encoder.backbone.config.vocab_size, device)

    def step() -> None:
        encoder.zero_grad()
        _backward(encoder, batches, device)

    return _timed(step, device)


def _position(shape: Shape, device: torch.device, experts: int) -> list[float]:
    base = random_encoder(shape, device)
    vectors = noisy_vectors(base, experts)
    position = Position(Slerp(), gram_matrices(vectors, dict.fromkeys(vectors, "model")).cpu())
    encoder = MergedEncoder(base, {name: Prepared(stacked) for name, stacked in vectors.items()}, position).to(device)
    optimizer = Adam(position.parameters(), lr=5e-3)
    batches = random_batches(shape, base.backbone.config.vocab_size, device)

    def step() -> None:
        optimizer.zero_grad()
        _backward(encoder, batches, device)
        optimizer.step()

    return _timed(step, device)


class _StepTimer(Callback):
    """Seconds from the end of a step to the end of the next, loading and tokenising included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.ends.append(_now(self.device))
        if len(self.ends) == WARM_UP:
            _forget_peak(self.device)


def _expert(shape: Shape, device: torch.device) -> list[float]:
    """Through the Trainer, from texts as long as the model reads."""
    steps = WARM_UP + RUNS
    tasks = made_up_tasks(expert=shape.rows * steps, probe=0, validation=2, words=shape.length)[:1]
    timer = _StepTimer(device)
    with tempfile.TemporaryDirectory() as folder:
        save_random(shape, Path(folder))
        module = ContrastiveModule(folder)
    options: dict[str, Any] = {"strategy": "auto", "precision": "bf16-mixed", "limit_val_batches": 0}
    trainer = make_trainer(device, timer, max_steps=steps, **options)
    trainer.fit(module, datamodule=TaskDataModule(tasks, batch_size=shape.rows))
    return [after - before for before, after in pairwise(timer.ends)][WARM_UP - 1 :]


def table(cells: list[Cell]) -> str:
    """The cells as Markdown."""
    plain = {cell.shape: cell.seconds for cell in cells if cell.job == "plain"}
    lines = [
        "| model | job | ms a step | pairs/s | times the plain step | peak memory, GiB |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for cell in cells:
        if cell.seconds is None:
            lines.append(f"| {cell.shape} | {cell.job} | skipped: {cell.reason} | | | |")
            continue
        reference = plain.get(cell.shape)
        times = f"{cell.seconds / reference:.2f}" if reference and cell.job.startswith("position") else ""
        memory = "" if cell.memory is None else f"{cell.memory / 2**30:.2f}"
        ms, pairs = cell.seconds * 1000, cell.pairs / cell.seconds
        lines.append(f"| {cell.shape} | {cell.job} | {ms:.1f} | {pairs:.0f} | {times} | {memory} |")
    return "\n".join(lines)


def as_json(cells: list[Cell]) -> list[dict[str, Any]]:
    """The cells for a JSON file."""
    return [asdict(cell) for cell in cells]
