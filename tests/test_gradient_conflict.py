"""Cosines of gradients, against taking, flattening and comparing them one by one."""

import csv
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch.nn import functional as F

from callbacks import GradientConflict, ResumableRun
from datamodules import SplitTask, TaskData, TaskDataModule
from datamodules.batching import BatchLoader, evaluation_batches
from datamodules.collate import Collator
from modules import ContrastiveModule, UserError
from modules.distributed import local
from modules.encoding.text_encoder import TextEncoder
from modules.errors import Interrupted
from modules.losses.gradient_cosines import gradient_cosines
from modules.losses.task_batch import LossConfig, TaskBatch
from modules.losses.task_loss import task_loss
from tests.conftest import Project
from tests.test_resumable_run import Kill
from tests.tiny_encoder import WORDS, tiny_encoder


def tasks() -> list[SplitTask]:
    """One data set with each loss; the validation rows make 3, 2 and 1 batches of 8."""
    draw = random.Random(0)

    def texts(rows: int) -> list[str]:
        return [" ".join(draw.sample(WORDS, draw.randint(3, 6))) for _ in range(rows)]

    def data(name: str, rows: int) -> TaskData:
        if name == "pairs":
            return TaskData(name, "pairs", [texts(rows), texts(rows)], [""] * 2, None, None, LossConfig("infonce"))
        if name == "graded":
            scores = [draw.random() for _ in range(rows)]
            return TaskData(name, "graded", [texts(rows), texts(rows)], [""] * 2, scores, None, LossConfig("cosent"))
        labels = [draw.randrange(3) for _ in range(rows)]
        return TaskData(name, "labelled", [texts(rows)], [""], labels, None, LossConfig("supcon"))

    sizes = {"pairs": 24, "graded": 16, "labelled": 8}
    return [SplitTask(n, data(n, 40), data(n, 8), data(n, rows)) for n, rows in sizes.items()]


def first_batches(encoder: TextEncoder, most: int) -> dict[str, list[TaskBatch]]:
    """The first validation batches of each data set."""
    return {
        task.name: list(
            BatchLoader(evaluation_batches(len(task.validation), 8), Collator([task.validation], encoder.tokenize))
        )[:most]
        for task in tasks()
    }


def obvious(encoder: TextEncoder, batches: dict[str, list[TaskBatch]], groups: list[list[str]]) -> torch.Tensor:
    encoder.eval()
    gradients = []
    for names in groups:
        losses = [torch.stack([task_loss(encoder, batch, local).loss for batch in batches[n]]).mean() for n in names]
        parts = torch.autograd.grad(torch.stack(losses).mean(), [p for p in encoder.parameters() if p.requires_grad])
        gradients.append(torch.cat([part.double().flatten() for part in parts]))
    return torch.stack([torch.stack([F.cosine_similarity(a, b, dim=0) for b in gradients]) for a in gradients])


def test_cosines_are_those_of_the_flattened_gradients() -> None:
    encoder = tiny_encoder()
    batches = first_batches(encoder, 3)
    assert [len(part) for part in batches.values()] == [3, 2, 1]
    found = gradient_cosines(encoder, batches)
    assert found.dtype == torch.float64
    assert torch.allclose(found, obvious(encoder, batches, [["pairs"], ["graded"], ["labelled"]]), atol=1e-5)
    assert found[0, 1].abs() < 0.99
    grouped = gradient_cosines(encoder, batches, {"a": ["pairs", "labelled"], "b": ["graded"]})
    assert torch.allclose(grouped, obvious(encoder, batches, [["pairs", "labelled"], ["graded"]]), atol=1e-5)


def test_frozen_weights_have_no_part_in_it() -> None:
    encoder = tiny_encoder()
    batches = first_batches(encoder, 1)
    everything = gradient_cosines(encoder, batches)
    encoder.backbone.embeddings.requires_grad_(False)
    found = gradient_cosines(encoder, batches)
    assert not torch.allclose(found, everything, atol=1e-3)
    assert torch.allclose(found, obvious(encoder, batches, [["pairs"], ["graded"], ["labelled"]]), atol=1e-5)


def test_nothing_is_left_behind() -> None:
    encoder = tiny_encoder().train()
    batches = first_batches(encoder, 2)
    task_loss(encoder, batches["pairs"][0], local).loss.backward()
    before = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    weights, random_state = {n: p.clone() for n, p in encoder.named_parameters()}, torch.get_rng_state()
    gradient_cosines(encoder, batches)
    assert before
    assert all(m.training for m in encoder.modules())
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, p in encoder.named_parameters():
        assert torch.equal(p, weights[name])
        assert p.grad is not None
        assert torch.equal(p.grad, before[name])


def train(project: Project, folder: Path, *callbacks: Callback, **options: Any) -> ContrastiveModule:
    """Seven steps with dropout on three data sets, from what is in the folder."""
    seed_everything(0, verbose=False)
    run = ResumableRun(folder)
    joint = ContrastiveModule(str(project.base), lr=1e-3)
    trainer = Trainer(
        accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, callbacks=[run, *callbacks],
        **{"max_steps": 7, "logger": False, "limit_val_batches": 0} | options,
    )  # fmt: skip
    trainer.fit(joint, datamodule=TaskDataModule(tasks(), batch_size=8), ckpt_path=run.checkpoint, weights_only=True)
    run.raise_if_interrupted()
    return joint


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "gradient_cosines.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_training_is_the_same_without_it(project: Project, options: dict[str, Any]) -> None:
    expected = train(project, project.folder / "plain", **options).state_dict()
    joint = train(project, project.folder, GradientConflict(project.folder, 1), **options).state_dict()
    assert all(torch.equal(expected[name], joint[name]) for name in expected)
    assert [row["step"] for row in rows(project.folder)] == [str(step) for step in range(8) for _ in range(3)]


@pytest.mark.parametrize("groups", [None, {"texts": ["labelled", "graded"], "pairs": ["pairs"]}])
def test_the_start_and_the_end_are_those_of_the_model_there(
    project: Project, groups: dict[str, list[str]] | None
) -> None:
    logger = CSVLogger(project.folder, name="log")
    conflict = GradientConflict(project.folder, 3, groups=groups)
    joint = train(project, project.folder, conflict, logger=logger, log_every_n_steps=50)
    found = rows(project.folder)
    names = list(groups or ["pairs", "graded", "labelled"])
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    assert [(int(row["step"]), row["task_a"], row["task_b"]) for row in found] == [
        (step, a, b) for step in (0, 3, 6, 7) for a, b in pairs
    ]
    for encoder, part in ((TextEncoder.load(project.base), found[: len(pairs)]), (joint.encoder, found[-len(pairs) :])):
        assert isinstance(encoder, TextEncoder)
        members = [[name] for name in names] if groups is None else list(groups.values())
        cosines = obvious(encoder, first_batches(encoder, 2), members)
        expected = [float(cosines[i, j]) for i in range(len(names)) for j in range(i + 1, len(names))]
        assert [float(row["cosine"]) for row in part] == pytest.approx(expected, abs=1e-5)
    with (Path(logger.log_dir) / "metrics.csv").open(newline="") as file:
        logged = [float(v) for row in csv.DictReader(file) if (v := row["gradient_cosine/{}~{}".format(*pairs[0])])]
    assert logged == [float(row["cosine"]) for row in found[:: len(pairs)]]


@pytest.mark.parametrize("stop", [4, 5, 7])
def test_a_stopped_run_leaves_the_rows_of_one_that_was_not(project: Project, stop: int) -> None:
    def conflict(folder: str) -> GradientConflict:
        return GradientConflict(project.folder / folder, 2)

    train(project, project.folder / "whole", conflict("whole"))
    with pytest.raises(Interrupted, match=f"stopped after step {stop}"):
        train(project, project.folder / "run", conflict("run"), Kill(signal.SIGINT, stop))
    assert {row["step"] for row in rows(project.folder / "run")} == {str(step) for step in range(0, stop + 1, 2)}
    checkpoint = (project.folder / "run" / "resume.ckpt").read_bytes()
    train(project, project.folder / "run", conflict("run"))  # went on after the checkpoint, and is thrown away
    (project.folder / "run" / "resume.ckpt").write_bytes(checkpoint)
    train(project, project.folder / "run", conflict("run"))
    assert rows(project.folder / "run") == rows(project.folder / "whole")


def test_fast_dev_run_writes_no_file(project: Project) -> None:
    train(project, project.folder / "run", GradientConflict(project.folder, 1), fast_dev_run=True)
    assert not list(project.folder.rglob("gradient_cosines.csv"))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"all": ["pairs", "graded"]}, "only all to compare gradients of; give at least two groups"),
        ({"a": ["pairs"], "b": []}, "groups.b: names no data set"),
        ({"a": ["pairs"], "b": ["grade"]}, "groups.b: no data set is called 'grade'; did you mean graded?"),
    ],
)
def test_groups_that_cannot_be_compared(project: Project, groups: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(project, project.folder / "run", GradientConflict(project.folder, 1, groups=groups))


def test_a_data_set_needs_validation_rows(project: Project) -> None:
    splits = tasks()
    splits[1] = SplitTask("graded", splits[1].expert, splits[1].probe, splits[1].validation.subset([]))
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[GradientConflict(project.folder, 1)], max_steps=1)
    with pytest.raises(UserError, match="graded: no validation rows to compare gradients on"):
        trainer.fit(ContrastiveModule(str(project.base)), datamodule=TaskDataModule(splits, batch_size=8))


def test_numbers_of_steps_and_batches_are_positive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="every_n_steps is 0"):
        GradientConflict(tmp_path, 0)
    with pytest.raises(UserError, match="batches_per_task is 0"):
        GradientConflict(tmp_path, 1, batches_per_task=0)
