"""A loss that the package does not have, defined as `modules.losses.loss.Loss` says: trained, validated, positioned."""

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from lightning import Trainer
from torch import Tensor
from torchmetrics import MeanMetric

from datamodules import Collator, DataSource, ProbeDataModule, SplitTask, TaskDataModule, load_tasks
from modules import ContrastiveModule, LossConfig, MergeModule, UserError
from modules.distributed import Gather
from modules.encoding.prompts import prompts_by_side
from modules.losses import LOSSES, Loss, losses_for, register
from modules.losses.cosines import paired_cosines
from modules.losses.loss import Metrics
from modules.losses.task_batch import TaskBatch
from modules.merging.collect_statistics import collect_fisher
from tests.conftest import Project
from tests.tiny_encoder import tiny_encoder

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "num_sanity_val_steps": 0,
}  # fmt: skip


@pytest.fixture
def own_loss() -> Iterator[None]:
    """The example of `Loss`, registered for one test."""

    @register
    class CosineError(Loss):
        name = "cosine_error"
        rows = "graded"
        metrics: ClassVar[Metrics] = {"error": MeanMetric}

        def batch_loss(self, embeddings: list[Tensor], batch: TaskBatch, gather: Gather) -> Tensor:
            return self._errors(embeddings, batch).mean()

        def row_loss(self, embeddings: list[Tensor], batch: TaskBatch, row: int) -> Tensor:
            return self._errors(embeddings, batch)[row]

        def observations(self, embeddings: list[Tensor], batch: TaskBatch) -> dict[str, tuple[Tensor, ...]]:
            return {"error": (self._errors(embeddings, batch),)}

        def _errors(self, embeddings: list[Tensor], batch: TaskBatch) -> Tensor:
            return (paired_cosines(*embeddings) - batch.target) ** 2

    yield
    del LOSSES["cosine_error"]


def graded(project: Project) -> SplitTask:
    source = DataSource(str(project.folder / "sts.jsonl"), loss=LossConfig("cosine_error"))
    return load_tasks([source], probe_size=24, validation_size=16)["sts"]


@pytest.mark.usefixtures("own_loss")
def test_an_expert_is_trained_with_it(project: Project) -> None:
    module, trainer = ContrastiveModule(str(project.base), lr=1e-3), Trainer(max_epochs=2, **QUIET)
    data = TaskDataModule([graded(project)], batch_size=8)
    [before] = Trainer(**QUIET).validate(module, data, verbose=False)
    trainer.fit(module, datamodule=data)
    [after] = Trainer(**QUIET).validate(module, data, verbose=False)
    assert after["val/sts/loss"] == pytest.approx(after["val/sts/error"])
    assert after["val/sts/error"] < before["val/sts/error"]


@pytest.mark.usefixtures("own_loss")
def test_a_position_is_learned_with_it(experts: Project) -> None:
    folders = {name: str(experts.folder / name) for name in ("qa", "sts")}
    merge = MergeModule(str(experts.base), folders, allow_suspicious=True)
    data = ProbeDataModule([graded(experts)], size=24, validation_size=16, batch_size=8)
    Trainer(max_epochs=1, **QUIET).fit(merge, datamodule=data)
    assert 0 < float(merge.trainer.callback_metrics["val/loss"]) < 2


@pytest.mark.usefixtures("own_loss")
def test_fisher_information_follows_its_rows(project: Project) -> None:
    encoder = tiny_encoder().double().eval()
    rows = graded(project).probe.with_prompts(prompts_by_side({}, None))
    batch = Collator([rows], encoder.tokenize)([(0, 0), (0, 1)])
    squares: list[Tensor] = []
    for row in range(2):
        first, second = (encoder(column)[row] for column in batch.features)
        assert batch.target is not None
        error = (torch.cosine_similarity(first, second, dim=0) - batch.target[row]) ** 2
        squares.append(torch.autograd.grad(error, encoder.backbone.embeddings.word_embeddings.weight)[0].square())
    found = collect_fisher(encoder, [batch])["embeddings.word_embeddings.weight"]
    assert torch.allclose(found, torch.stack(squares).mean(0), rtol=1e-6, atol=1e-20) and found.max() > 0


@pytest.mark.usefixtures("own_loss")
def test_it_is_chosen_by_name_only_and_for_its_rows_only(project: Project) -> None:
    assert losses_for("graded") == ["cosent", "cosine_error"]
    source = DataSource(str(project.folder / "sts.jsonl"))
    for config, name in ((None, "cosent"), (LossConfig("cosine_error"), "cosine_error")):
        [task] = load_tasks([source], probe_size=24, validation_size=16, loss=config).values()
        assert task.expert.loss.name == name
    with pytest.raises(UserError, match="qa: loss 'cosine_error' does not fit pairs rows; set it to infonce or auto"):
        graded_as_pairs = DataSource(str(project.folder / "qa.jsonl"), loss=LossConfig("cosine_error"))
        load_tasks([graded_as_pairs], probe_size=24, validation_size=16)
    with pytest.raises(
        UserError, match="sts: loss 'cosin' does not fit graded rows; set it to cosent, cosine_error or"
    ):
        load_tasks([source], probe_size=24, validation_size=16, loss=LossConfig("cosin"))
