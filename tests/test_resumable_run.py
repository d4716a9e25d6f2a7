"""A run that is stopped by a real signal goes on where it was."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from callbacks import Interrupted, ResumableRun
from datamodules import TaskDataModule, load_tasks
from modules import ContrastiveModule
from tests.conftest import Project


class Kill(Callback):
    """Sends this process a signal in the middle of a batch."""

    def __init__(self, number: int, batch: int) -> None:
        self.number, self.batch = number, batch
        self.seen = 0

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        self.seen += 1
        if self.seen == self.batch:
            os.kill(os.getpid(), self.number)


def train(project: Project, folder: Path, *callbacks: Callback, workers: int = 0, **options: Any) -> ContrastiveModule:
    """Eight steps with dropout, an epoch of 12 batches; goes on from what is in the folder."""
    task = load_tasks({"qa": str(project.folder / "qa.jsonl")}, probe_size=0, validation_size=16)["qa"]
    seed_everything(0, verbose=False)
    run = ResumableRun(folder)
    module = ContrastiveModule(str(project.base), lr=1e-3)
    trainer = Trainer(
        accelerator="cpu", max_steps=8, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[run, *callbacks], **options,
    )  # fmt: skip
    data = TaskDataModule([task], batch_size=8, num_workers=workers)
    trainer.fit(module, datamodule=data, ckpt_path=run.checkpoint, weights_only=True)
    run.raise_if_interrupted()
    return module


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGINT, 1)])
def test_a_stopped_run_ends_as_one_that_was_not(project: Project, number: int, workers: int) -> None:
    expected = train(project, project.folder / "whole", workers=workers).state_dict()
    with pytest.raises(Interrupted, match="stopped after step 5; the same command goes on from there"):
        train(project, project.folder / "run", Kill(number, 5), workers=workers)
    assert (project.folder / "run" / "resume.ckpt").is_file()
    resumed = train(project, project.folder / "run", workers=workers).state_dict()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_never_in_the_middle_of_an_accumulated_batch(project: Project) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": 3}
    expected = train(project, project.folder / "whole", **options).state_dict()
    with pytest.raises(Interrupted, match="stopped after step 2"):
        train(project, project.folder / "run", Kill(signal.SIGINT, 4), **options)
    resumed = train(project, project.folder / "run", **options).state_dict()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
