"""What training costs, against counting by hand."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.flop_counter import FlopCounterMode

from callbacks import CostMeter
from modules import Adam, Bfgs, CmaEs, MergeModule, TaskArithmetic
from modules.distributed import local
from modules.errors import Interrupted
from modules.losses.task_batch import TaskBatch
from modules.losses.task_loss import task_loss
from tests.conftest import Project
from tests.test_merge_module import fit, module
from tests.test_resumable_run import Kill, train

WIDTH, INNER, LAYERS = 16, 32, 2


class Spy(Callback):
    """The batches, whether each was watched, and at their ends a matrix product that is nobody's business."""

    def __init__(self) -> None:
        self.training: list[Any] = []
        self.validation: list[TaskBatch] = []
        self.watched: list[bool] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.callbacks = [self, *(c for c in trainer.callbacks if c is not self)]  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        self.training.append(batch)
        self.watched.append(_get_current_dispatch_mode() is not None)

    def on_train_batch_end(self, *_: Any) -> None:
        assert _get_current_dispatch_mode() is None
        assert (torch.ones(9, 9) @ torch.ones(9, 9)).sum() == 9**3

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        assert _get_current_dispatch_mode() is None
        self.validation.append(batch)


def cost(folder: Path) -> dict[str, int]:
    content: dict[str, int] = json.loads((folder / "cost.json").read_text())
    return content


def by_formula(batch: TaskBatch) -> int:
    """FLOPs of embedding a batch."""
    flops = 0
    for column in batch.features:
        rows, length = column["input_ids"].shape
        linear = 2 * rows * length * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER)
        attention = 2 * (2 * rows * length * length * WIDTH)
        flops += LAYERS * (linear + attention)
    return flops


def comparisons(batch: TaskBatch) -> int:
    """FLOPs of comparing its embeddings once, as InfoNCE does."""
    return 2 * len(batch) ** 2 * WIDTH if batch.loss.name == "infonce" else 0


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}])
def test_flops_are_those_of_forward_and_backward_counted_by_hand(project: Project, options: dict[str, Any]) -> None:
    spy = Spy()
    meter = CostMeter(project.folder)
    expert = train(project, project.folder / "run", spy, meter, val_check_interval=4, **options)
    by_hand = 0
    for batch in spy.training:
        with FlopCounterMode(display=False) as counter:
            task_loss(expert.encoder.train(), batch, local).loss.backward()
        by_hand += counter.get_total_flops()
    validated = sum(by_formula(batch) + 2 * comparisons(batch) for batch in spy.validation)  # loss and metrics
    batches = 8 * options.get("accumulate_grad_batches", 1)
    assert len(spy.training) == batches
    assert spy.validation
    assert cost(project.folder) == {
        "steps": 8, "examples": 8 * batches, "flops": by_hand, "validation_flops": validated,
    }  # fmt: skip


def test_a_few_steps_of_each_kind_are_watched(project: Project) -> None:
    spy = Spy()
    train(project, project.folder / "run", CostMeter(project.folder), spy, max_steps=24)
    for loss in {batch.loss.name for batch in spy.training}:
        watched = [w for w, batch in zip(spy.watched, spy.training, strict=True) if batch.loss.name == loss]
        assert watched[0]
        assert sum(watched) <= 3 < len(watched)


@pytest.mark.parametrize("step", [5, 8])
def test_a_stopped_run_costs_as_much_as_one_that_was_not(project: Project, step: int) -> None:
    options: dict[str, Any] = {"val_check_interval": 3}
    train(project, project.folder / "whole", CostMeter(project.folder / "whole"), **options)
    meter = CostMeter(project.folder / "run")
    with pytest.raises(Interrupted, match=f"stopped after step {step}"):
        train(project, project.folder / "run", Kill(signal.SIGINT, step), meter, **options)
    assert cost(project.folder / "run")["steps"] == step
    (project.folder / "run" / "cost.json").unlink()
    train(project, project.folder / "run", CostMeter(project.folder / "run"), **options)
    assert _get_current_dispatch_mode() is None
    assert cost(project.folder / "run") == cost(project.folder / "whole")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_is_the_same_without_it(project: Project, precision: str) -> None:
    options = {"precision": precision, "val_check_interval": 3}
    expected = train(project, project.folder / "plain", **options).state_dict()
    metered = train(project, project.folder / "metered", CostMeter(project.folder), **options).state_dict()
    assert all(torch.equal(expected[name], metered[name]) for name in expected)


def test_an_error_leaves_nothing_watched(project: Project) -> None:
    class Crash(Callback):
        watched = False

        def on_after_backward(self, *_: Any) -> None:
            self.watched = _get_current_dispatch_mode() is not None
            raise RuntimeError("the power is cut")

    crash = Crash()
    with pytest.raises(RuntimeError, match="the power is cut"):
        train(project, project.folder / "run", CostMeter(project.folder), crash)
    assert crash.watched
    assert _get_current_dispatch_mode() is None
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert not (project.folder / "cost.json").exists()


def learn(experts: Project, merge: MergeModule, **options: Any) -> tuple[Spy, dict[str, int]]:
    spy = Spy()
    fit(experts, merge, callbacks=[spy, CostMeter(experts.folder)], **options)
    return spy, cost(experts.folder)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_merged_forward_pass_costs_that_of_a_plain_encoder(experts: Project, precision: str) -> None:
    spy, found = learn(experts, module(experts), precision=precision)
    once = [spy.validation[i] for i in range(len(spy.validation) // 2)]
    validations = 2 * sum(by_formula(batch) + 2 * comparisons(batch) for batch in once)
    start = 2 * sum(by_formula(batch) + comparisons(batch) for batch in once)  # the base and the first position
    # A little more: the coefficients are made of N + 1 numbers in each pass.
    assert validations + start <= found["validation_flops"] < 1.001 * (validations + start)
    assert found["examples"] == 8 * found["steps"] == 8 * len(spy.training)
    # Backward: twice the forward pass, attention 2.5 times since it is computed again, and the dot products.
    changed = sum(p.numel() for name, p in experts_parameters(experts) if "embeddings.weight" not in name)
    least = sum(3 * by_formula(batch) for batch in spy.training)
    dots = sum(2 * 2 * changed * len(batch.features) for batch in spy.training)
    assert least + dots < found["flops"] < 1.1 * (least + dots)


def experts_parameters(experts: Project) -> list[tuple[str, torch.nn.Parameter]]:
    merge = module(experts)
    return [(name, p) for name, p in merge.encoder.base.named_parameters()]  # type: ignore[union-attr]


def test_a_search_without_gradients_costs_its_forward_passes(experts: Project) -> None:
    merge = module(experts, search=CmaEs(population=4))
    spy, found = learn(experts, merge, max_epochs=3)
    probe = spy.training[0]
    assert found["steps"] == 3
    assert merge.passes["forward"] == 3 * 4 * len(probe)
    assert found["examples"] == 3 * 4 * sum(map(len, probe))
    once = sum(by_formula(batch) + comparisons(batch) for batch in probe)
    assert 12 * once <= found["flops"] < 12 * 1.001 * once


def test_every_evaluation_of_a_line_search_counts(experts: Project) -> None:
    merge = module(experts, search=Bfgs(), method=TaskArithmetic())
    spy, found = learn(experts, merge, max_epochs=4)
    probe = spy.training[0]
    evaluations = merge.passes["forward"] // len(probe)
    assert evaluations > 4
    assert found["examples"] == evaluations * sum(map(len, probe))
    steps = module(experts, search=Adam(0.0), method=TaskArithmetic())
    _, by_batches = learn(experts, steps, max_epochs=1)
    assert by_batches["steps"] == len(probe)
    assert found["flops"] == pytest.approx(evaluations * by_batches["flops"], rel=1e-3)


def test_a_position_is_learned_the_same_without_it(experts: Project) -> None:
    plain, metered = module(experts), module(experts)
    fit(experts, plain, precision="bf16-mixed")
    learn(experts, metered, precision="bf16-mixed")
    assert plain.best.objective == metered.best.objective
    assert plain.describe_position() == metered.describe_position()
