"""A run that is stopped by a real signal goes on where it was."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from callbacks import ResumableRun
from datamodules import TaskDataModule, load_tasks
from modules import ContrastiveModule, MergeModule
from modules.errors import Interrupted
from tests.conftest import Project
from tests.test_merge_module import fit, module
from tests.tiny_encoder import tiny_encoder


class Kill(Callback):
    """Sends this process a signal in the middle of a batch."""

    def __init__(self, number: int, batch: int) -> None:
        self.number, self.batch = number, batch
        self.seen = 0

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        self.seen += 1
        if self.seen == self.batch:
            os.kill(os.getpid(), self.number)


def train(
    project: Project, folder: Path, *callbacks: Callback, workers: int = 0, every_n_steps: int = 200, **options: Any
) -> ContrastiveModule:
    """Eight steps with dropout, unless told; goes on from what is in the folder."""
    task = load_tasks({"qa": str(project.folder / "qa.jsonl")}, probe_size=0, validation_size=16)["qa"]
    seed_everything(0, verbose=False)
    run = ResumableRun(folder, every_n_steps)
    expert = ContrastiveModule(str(project.base), lr=1e-3)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[run, *callbacks], **{"max_steps": 8} | options,
    )  # fmt: skip
    data = TaskDataModule([task], batch_size=8, num_workers=workers)
    trainer.fit(expert, datamodule=data, ckpt_path=run.checkpoint, weights_only=True)
    run.raise_if_interrupted()
    return expert


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGINT, 1)])
def test_a_stopped_run_ends_as_one_that_was_not(project: Project, number: int, workers: int) -> None:
    before = signal.getsignal(signal.SIGINT)
    expected = train(project, project.folder / "whole", workers=workers).state_dict()
    with pytest.raises(Interrupted, match="stopped after step 5; the same command goes on from there"):
        train(project, project.folder / "run", Kill(number, 5), workers=workers)
    assert (project.folder / "run" / "resume.ckpt").is_file()
    resumed = train(project, project.folder / "run", workers=workers).state_dict()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert signal.getsignal(signal.SIGINT) is before


def test_never_in_the_middle_of_an_accumulated_batch(project: Project) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": 3}
    expected = train(project, project.folder / "whole", **options).state_dict()
    with pytest.raises(Interrupted, match="stopped after step 2"):
        train(project, project.folder / "run", Kill(signal.SIGINT, 4), **options)
    resumed = train(project, project.folder / "run", **options).state_dict()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


@pytest.mark.parametrize("options", [{"limit_val_batches": 0}, {}])
def test_at_the_end_of_an_epoch(project: Project, options: dict[str, Any]) -> None:
    options |= {"max_steps": 8, "limit_train_batches": 5}
    expected = train(project, project.folder / "whole", **options).state_dict()
    with pytest.raises(Interrupted, match="stopped after step 5"):
        train(project, project.folder / "run", Kill(signal.SIGINT, 5), **options)
    resumed = train(project, project.folder / "run", **options).state_dict()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_what_every_n_steps_saved_is_where_a_lost_run_goes_on(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    class Crash(Kill):
        def on_before_backward(self, *_: Any) -> None:
            self.seen += 1
            if self.seen == self.batch:
                raise RuntimeError("the power is cut")

    before = signal.getsignal(signal.SIGINT)
    expected = train(project, project.folder / "whole", every_n_steps=3).state_dict()
    with pytest.raises(RuntimeError, match="the power is cut"):
        train(project, project.folder / "run", Crash(0, 6), every_n_steps=3)
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(project.folder / "run" / "resume.ckpt", weights_only=True)["global_step"] == 3
    assert "weights_only" not in caplog.text, "Lightning would say that it was not set"
    resumed = train(project, project.folder / "run", every_n_steps=3).state_dict()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


@pytest.mark.parametrize("step", [5, 7])
def test_a_stopped_position_settles_where_the_other_did(project: Project, step: int) -> None:
    """An epoch has five steps, so one of the two stops comes right before a validation, which must not be lost."""
    for seed, name in enumerate(("qa", "sts"), start=1):
        tiny_encoder(seed=seed).save(project.folder / name)

    def learn(folder: str, *callbacks: Callback) -> tuple[MergeModule, Trainer, ResumableRun]:
        run = ResumableRun(project.folder / folder)
        merge = module(project, settled=10.0)  # ends at the second validation
        with torch.no_grad():
            merge.position.raw_scale.fill_(3.0)  # far off, so that each epoch finds a better position
        return merge, fit(project, merge, run.checkpoint, max_epochs=9, callbacks=[run, *callbacks]), run

    whole, whole_trainer, _ = learn("whole")
    with pytest.raises(Interrupted, match=f"stopped after step {step}"):
        learn("run", Kill(signal.SIGINT, step))[2].raise_if_interrupted()
    resumed, resumed_trainer, _ = learn("run")
    assert whole_trainer.global_step == resumed_trainer.global_step == 10
    assert whole.best.objective == resumed.best.objective
    assert whole.describe_position() == resumed.describe_position()
