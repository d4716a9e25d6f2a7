"""Training an expert: its schedule, its optimiser, what it learns and what validation says."""

import random
from collections import ChainMap
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch.nn import functional

from datamodules import DataSource, TaskDataModule
from modules import ContrastiveModule, LossConfig, UserError
from modules.contrastive_module import warmup_factor
from modules.losses.task_batch import TaskBatch
from tests.conftest import Project, write_rows
from tests.tiny_encoder import WORDS


@pytest.mark.parametrize(
    ("step", "steps", "warmup", "factor"),
    [
        (0, 10, 0.2, 0.5),
        (1, 10, 0.2, 1.0),
        (2, 10, 0.2, 1.0),
        (6, 10, 0.2, 0.5),
        (9, 10, 0.2, 0.125),
        (10, 10, 0.2, 0.0),
        (0, 10, 0.0, 1.0),
        (0, 1, 0.1, 1.0),
        (10**6, float("inf"), 0.1, 1.0),
    ],
)
def test_warmup_and_decay(step: int, steps: float, warmup: float, factor: float) -> None:
    assert warmup_factor(step, steps, warmup) == pytest.approx(factor)


class Rates(Callback):
    """The learning rate that each step was made with."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def trainer(*callbacks: Callback, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    more: dict[str, Any] = {"enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **quiet | more | options)


def data(project: Project, *names: str) -> TaskDataModule:
    draw = random.Random(1)
    texts = [(label, " ".join([label, *draw.sample(WORDS, 4)])) for label in ["cat", "dog", "sky"] * 40]
    write_rows(project.folder / "labels.jsonl", [{"text": text, "label": label} for label, text in texts])
    pairs = [(draw.choice(texts), draw.choice(texts)) for _ in range(600)]
    graded = [{"sentence1": a[1], "sentence2": b[1], "score": float(a[0] == b[0])} for a, b in pairs]
    write_rows(project.folder / "graded.jsonl", graded)
    loss = LossConfig(temperature=0.1)
    sources = [DataSource(str(project.folder / f"{name}.jsonl"), loss=loss) for name in names]
    return TaskDataModule(sources, validation_size=24, batch_size=8)


def test_every_step_has_its_rate(project: Project) -> None:
    rates = Rates()
    module = ContrastiveModule(str(project.base), lr=0.01, warmup=0.25)
    trainer(rates, max_steps=4, accumulate_grad_batches=2).fit(module, datamodule=data(project, "qa"))
    factors = [1.0, 1.0, 2 / 3, 1 / 3]  # each for two micro-batches
    assert rates.seen == pytest.approx([0.01 * factor for factor in factors for _ in range(2)])


def test_only_matrices_decay(project: Project) -> None:
    module = ContrastiveModule(str(project.base), weight_decay=0.3)
    train = trainer(max_steps=1)
    train.fit(module, datamodule=data(project, "qa"))
    decay = {id(p): group["weight_decay"] for group in train.optimizers[0].param_groups for p in group["params"]}
    named = dict(module.named_parameters())
    assert len(decay) == len(named)
    for name, parameter in named.items():
        expected = 0.0 if name.endswith("bias") or "LayerNorm" in name else 0.3
        assert decay[id(parameter)] == expected, name


@pytest.mark.parametrize("name", ["qa", "graded", "labels"])
def test_the_loss_falls_on_rows_that_were_not_seen(project: Project, name: str) -> None:
    seed_everything(0, verbose=False)
    module, rows = ContrastiveModule(str(project.base), lr=3e-3), data(project, name)
    before = trainer().validate(module, rows, verbose=False)[0]["val/loss"]
    trainer(max_steps=120, limit_val_batches=0).fit(module, datamodule=rows)
    assert trainer().validate(module, rows, verbose=False)[0]["val/loss"] < 0.9 * before


def test_rows_train_with_the_negatives_that_they_have(project: Project) -> None:
    """Rows in FlagEmbedding's format, against the loss of all texts that are there."""
    rows = [
        {"query": f"a cat {i}", "pos": [f"dog {i}"], "neg": [f"sky {i} {j}" for j in range(i % 3)]} for i in range(60)
    ]
    write_rows(project.folder / "flag.jsonl", rows)
    flag = TaskDataModule([DataSource(str(project.folder / "flag.jsonl"))], validation_size=8, batch_size=8)
    module = ContrastiveModule(str(project.base), lr=1e-3)
    trainer(max_steps=3, limit_val_batches=0).fit(module, datamodule=flag)
    logged = trainer().validate(module, flag, verbose=False)[0]["val/loss"]
    anchors, positives, *negatives = flag.splits[0].validation.texts
    given = [text for column in negatives for text in column if text]
    assert 0 < len(given) < 2 * len(anchors)
    queries, candidates = (module.encoder.encode(texts) for texts in (list(anchors), [*positives, *given]))
    cosines = functional.normalize(queries) @ functional.normalize(candidates).T
    expected = functional.cross_entropy(cosines / LossConfig().temperature, torch.arange(len(queries)))
    assert logged == pytest.approx(expected.item(), rel=1e-4)


def test_validation_logs_what_the_kind_of_data_allows(project: Project) -> None:
    module, rows = ContrastiveModule(str(project.base)), data(project, "qa", "sts", "labels")
    logged = dict(ChainMap(*map(dict, trainer().validate(module, rows, verbose=False))))
    ranking = {"loss", "recall@1", "mrr", "positive_cosine", "negative_cosine"}
    expected = {f"val/{task}/{name}" for task in ("qa", "labels") for name in ranking}
    assert set(logged) == expected | {"val/sts/loss", "val/sts/spearman", "val/loss"}
    assert logged["val/loss"] == pytest.approx(sum(logged[f"val/{t}/loss"] for t in ("qa", "sts", "labels")) / 3)
    assert 0 <= logged["val/qa/recall@1"] <= logged["val/qa/mrr"] <= 1
    assert logged["val/qa/positive_cosine"] > logged["val/qa/negative_cosine"]
    assert -1 <= logged["val/sts/spearman"] <= 1


def test_dropout_is_on_while_training_and_the_seed_decides(project: Project) -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        seed_everything(seed, verbose=False)
        module = ContrastiveModule(str(project.base), lr=1e-3)
        trainer(max_steps=3, limit_val_batches=0).fit(module, datamodule=data(project, "qa"))
        return module.state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    # The data module has its own seed, so that nothing but dropout differs.
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("inference_mode", [False, True])
def test_a_fit_after_a_validation_is_the_fit_alone(project: Project, inference_mode: bool) -> None:
    """Also after one on another data module, whose data sets are others."""

    def fitted(*validated: str) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        module = ContrastiveModule(str(project.base), lr=1e-3)
        if validated:
            trainer(inference_mode=inference_mode).validate(module, data(project, *validated), verbose=False)
        seed_everything(0, verbose=False)
        train = trainer(max_steps=4, val_check_interval=2, check_val_every_n_epoch=None, inference_mode=inference_mode)
        train.fit(module, datamodule=data(project, "qa", "sts"))
        return module.state_dict(), {key: float(value) for key, value in train.callback_metrics.items()}

    alone, metrics = fitted()
    for before in (("qa", "sts"), ("sts", "labels", "qa")):
        state, found = fitted(*before)
        assert found == metrics
        assert state.keys() == alone.keys()
        assert all(torch.equal(state[name], weight) for name, weight in alone.items())


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_of_half_precision_are_not_trained(project: Project, precision: Any) -> None:
    with pytest.raises(UserError, match=f"precision {precision} keeps the weights themselves in half .*use bf16-mixed"):
        trainer(precision=precision, max_steps=1).fit(ContrastiveModule(str(project.base)), data(project, "qa"))


@pytest.mark.parametrize("name", ["qa", "graded", "labels"])
def test_training_ends_at_the_first_loss_that_is_not_finite(project: Project, name: str) -> None:
    module = ContrastiveModule(str(project.base))
    steps: list[int] = []

    def spoil(batch: TaskBatch, _: int) -> None:
        batch.rows = list(range(101, 109))
        steps.append(module.trainer.global_step)
        if len(steps) == 3:
            with torch.no_grad():
                module.encoder.get_parameter("backbone.embeddings.LayerNorm.bias").fill_(torch.nan)

    module.on_train_batch_start = spoil  # type: ignore[method-assign]
    message = f"the loss of '{name}', rows 101, 102, 103, 104, 105, 106, 107, 108 is nan after 2 steps; look at these"
    with pytest.raises(UserError, match=message):
        trainer(max_steps=9).fit(module, datamodule=data(project, name))
    assert steps == [0, 1, 2]


def test_it_needs_a_data_module_of_ours(project: Project) -> None:
    with pytest.raises(UserError, match="ContrastiveModule needs a TaskDataModule or a ProbeDataModule"):
        trainer().validate(ContrastiveModule(str(project.base)), [[0]])
