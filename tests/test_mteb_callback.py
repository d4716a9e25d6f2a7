"""MTEB scores in the middle of training."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.mteb_callback import MtebCallback
from callbacks.mteb_encoder import MtebEncoder
from callbacks.mteb_tasks import evaluate_tasks, load_tasks
from modules.errors import UserError
from tests.tiny_encoder import tiny_encoder
from tests.tiny_mirror import write_sts

PAIRS = [
    ("a red cat", "the blue sky"),
    ("a dog runs", "the ball"),
    ("the cat sits", "a red ball"),
    ("the dog", "a sky"),
]


class PushApart(LightningModule):
    """Trains a tiny encoder, with dropout and shuffled rows, to tell the two texts of a pair apart."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = tiny_encoder()
        self.dropout = nn.Dropout(0.3)
        self.modes: list[bool] = []

    def training_step(self, batch: list[list[str]], _: int) -> Tensor:
        self.modes.append(self.encoder.training)
        left, right = (self.encoder(self.encoder.tokenize(column)) for column in batch)
        return (self.dropout(left) * right).sum(dim=-1).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


class Scores(MtebCallback):
    """Keeps what was logged at every epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate as ever."""
        super().on_train_epoch_end(trainer, pl_module)
        self.seen = [*getattr(self, "seen", []), dict(trainer.callback_metrics)]


@pytest.fixture(autouse=True)
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_sts(tmp_path)
    return str(tmp_path)


def fit(callbacks: list[Any], folder: str, **options: Any) -> PushApart:
    torch.manual_seed(0)
    module = PushApart()
    options = {"max_epochs": 3, "num_sanity_val_steps": 0, "logger": False, "enable_checkpointing": False, **options}
    trainer = Trainer(
        callbacks=callbacks,
        default_root_dir=folder,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader(PAIRS, batch_size=2, shuffle=True))  # type: ignore[arg-type]
    return module


def test_logs_the_scores_of_the_current_weights(mirror: str) -> None:
    callback = Scores(["STSBenchmark"], data_root=mirror)
    module = fit([callback], mirror)
    expected = evaluate_tasks(MtebEncoder(module.encoder), load_tasks(["STSBenchmark"], mirror))["STSBenchmark"]
    assert set(callback.seen[-1]) == {"mteb/STSBenchmark", "mteb/average"}
    assert callback.seen[-1]["mteb/STSBenchmark"] == callback.seen[-1]["mteb/average"] == pytest.approx(expected)
    assert len({float(metrics["mteb/average"]) for metrics in callback.seen}) > 1, "scores of old weights"


def test_training_goes_on_as_if_nothing_had_happened(mirror: str) -> None:
    plain, scored = fit([], mirror), fit([MtebCallback(["STSBenchmark"], data_root=mirror)], mirror)
    for (name, before), after in zip(plain.state_dict().items(), scored.state_dict().values(), strict=True):
        assert torch.equal(before, after), name
    assert scored.modes == [True] * 6


def test_every_n_epochs(mirror: str) -> None:
    callback = Scores(["STSBenchmark"], every_n_epochs=2, data_root=mirror)
    fit([callback], mirror)
    assert [bool(metrics) for metrics in callback.seen] == [False, True, True]
    with pytest.raises(UserError, match="every_n_epochs"):
        MtebCallback(["STSBenchmark"], every_n_epochs=0)


def test_fast_dev_run_evaluates_once(mirror: str) -> None:
    callback = Scores(["STSBenchmark"], every_n_epochs=5, data_root=mirror)
    fit([callback], mirror, fast_dev_run=True)
    assert len(callback.seen) == 1 and "mteb/average" in callback.seen[0]


def test_max_steps_in_the_middle_of_an_epoch_evaluates(mirror: str) -> None:
    callback = Scores(["STSBenchmark"], data_root=mirror)
    fit([callback], mirror, max_steps=1, max_epochs=-1)
    assert "mteb/average" in callback.seen[0]


def test_unknown_task_fails_before_training(mirror: str) -> None:
    with pytest.raises(UserError, match="did you mean STSBenchmark"):
        fit([MtebCallback(["STSBenchmrk"], data_root=mirror)], mirror)


def test_two_processes_log_the_same(mirror: str) -> None:
    fit([_SavedScores(["STSBenchmark"], data_root=mirror)], mirror, strategy="ddp_spawn", devices=2, max_epochs=1)
    first, second = (torch.load(Path(mirror) / f"scores{rank}.pt") for rank in range(2))
    assert first == second and "mteb/average" in first


class _SavedScores(MtebCallback):
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.set_num_threads(1)
        path = Path(trainer.default_root_dir) / f"scores{trainer.global_rank}.pt"
        torch.save({name: float(value) for name, value in trainer.callback_metrics.items()}, path)
