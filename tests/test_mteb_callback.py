"""MTEB scores in the middle of training."""

import csv
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.mteb.mteb_encoder import MtebEncoder
from callbacks.mteb.task_evaluation import evaluate_tasks
from callbacks.mteb.task_loading import load_tasks
from callbacks.mteb_callback import MtebCallback
from modules.encoding.text_encoder import TextEncoder
from modules.errors import UserError
from modules.say_once import say_once
from tests.processes import forkserver
from tests.tiny_encoder import tiny_encoder
from tests.tiny_mirror import SENTENCES, write_sts

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
        self.encoder = tiny_encoder().train()
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
    callback = Scores(["STSBenchmark"], every_n_epochs=1, data_root=mirror)
    module = fit([callback], mirror)
    expected = evaluate_tasks(MtebEncoder(module.encoder), load_tasks(["STSBenchmark"], mirror))["STSBenchmark"]
    assert set(callback.seen[-1]) == {"mteb/STSBenchmark", "mteb/average/STS", "mteb/average"}
    assert callback.seen[-1]["mteb/STSBenchmark"] == callback.seen[-1]["mteb/average"] == pytest.approx(expected)
    assert len({float(metrics["mteb/average"]) for metrics in callback.seen}) > 1, "scores of old weights"


def test_training_goes_on_as_if_nothing_had_happened(mirror: str) -> None:
    plain, scored = fit([], mirror), fit([MtebCallback(["STSBenchmark"], every_n_epochs=1, data_root=mirror)], mirror)
    for (name, before), after in zip(plain.state_dict().items(), scored.state_dict().values(), strict=True):
        assert torch.equal(before, after), name
    assert scored.modes == [True] * 6


def test_every_n_epochs(mirror: str) -> None:
    callback = Scores(["STSBenchmark"], every_n_epochs=2, data_root=mirror)
    fit([callback], mirror)
    assert [bool(metrics) for metrics in callback.seen] == [False, True, True]
    with pytest.raises(UserError, match="every_n_epochs"):
        MtebCallback(["STSBenchmark"], every_n_epochs=0)


def test_every_n_steps_at_the_start_and_at_the_end(mirror: str) -> None:
    """Three epochs of two steps."""
    when = {"every_n_steps": 4, "at_start": True, "at_end": True}
    logger = CSVLogger(mirror)
    fit([MtebCallback(["STSBenchmark"], data_root=mirror, **when)], mirror, logger=logger)  # type: ignore[arg-type]
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row["mteb/average"]] == ["0", "4", "6"]
    with pytest.raises(UserError, match="mteb.every_n_steps: 0 is not a positive number of steps"):
        MtebCallback(["STSBenchmark"], every_n_steps=0)


def test_checkpoints_and_early_stopping_follow_the_scores(mirror: str) -> None:
    callback = Scores(["STSBenchmark"], every_n_epochs=1, data_root=mirror)
    kept = ModelCheckpoint(f"{mirror}/kept", monitor="mteb/average", mode="max", save_weights_only=True)
    stop = EarlyStopping("mteb/average/STS", mode="min", stopping_threshold=101.0, check_on_train_epoch_end=True)
    fit([stop, callback, kept], mirror, enable_checkpointing=True)
    assert kept.best_model_score == callback.seen[0]["mteb/average"]
    assert len(callback.seen) == 1, "the first score is below the threshold"


def test_scores_are_there_between_validations(mirror: str) -> None:
    """Lightning's own validation must not make a followed score vanish."""

    class Validated(PushApart):
        def validation_step(self, batch: list[list[str]], _: int) -> None:
            self.log("val/loss", self.training_step(batch, 0), batch_size=2)

    kept = ModelCheckpoint(f"{mirror}/kept", monitor="mteb/average", mode="max", save_weights_only=True)
    callback = Scores(["STSBenchmark"], every_n_epochs=2, at_start=True, data_root=mirror)
    torch.manual_seed(0)
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        callbacks=[callback, kept],
        enable_model_summary=False,
    )
    rows = DataLoader(PAIRS, batch_size=2)  # type: ignore[arg-type]
    trainer.fit(Validated(), rows, rows)
    assert all("mteb/average" in metrics for metrics in callback.seen)
    assert kept.best_model_score == max(metrics["mteb/average"] for metrics in callback.seen)


def test_prompts_change_the_scores_and_are_said_once(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    say_once.cache_clear()
    monkeypatch.setattr("modules.say_once.rank_zero_info", said.append)
    seen = []
    for prompts in ({}, {"STS": "query : the sky "}):
        callback = Scores(["STSBenchmark"], every_n_epochs=1, data_root=mirror, prompts=prompts)
        fit([callback], mirror, max_epochs=2)
        seen.append(callback.seen[0]["mteb/average"])
    assert seen[0] != seen[1]
    assert said == ["  STSBenchmark: no prompt", "  STSBenchmark: prompt 'query : the sky '"]
    with pytest.raises(UserError, match="prompts: STSS is no task and no type of tasks; did you mean STS?"):
        fit([MtebCallback(["STSBenchmark"], every_n_epochs=1, data_root=mirror, prompts={"STSS": "x"})], mirror)


def test_each_text_is_tokenised_once_in_a_fit(mirror: str, tokenised: list[str]) -> None:
    callback = Scores(["STSBenchmark"], every_n_epochs=1, data_root=mirror, at_start=True)
    fit([callback], mirror)
    assert len(callback.seen) == 3 and sorted(tokenised) == sorted(SENTENCES)
    fit([callback], mirror, max_epochs=1)
    assert len(tokenised) == 2 * len(SENTENCES), "tokens are let go of after a fit"


def test_scores_in_bfloat16(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    encode = TextEncoder.encode
    monkeypatch.setattr(TextEncoder, "encode", lambda *a, **o: used.append(o["precision"]) or encode(*a, **o))
    fit(
        [MtebCallback(["STSBenchmark"], every_n_epochs=1, data_root=mirror, precision="bfloat16")], mirror, max_epochs=1
    )
    assert set(used) == {"bfloat16"}
    with pytest.raises(UserError, match="mteb.precision: 'float16' is unknown; use float32 or bfloat16"):
        MtebCallback(["STSBenchmark"], precision="float16")


def test_a_callback_that_would_never_score_is_refused(mirror: str) -> None:
    with pytest.raises(UserError, match="MtebCallback: no schedule is given, so nothing would be scored; give every_n"):
        fit([MtebCallback(["STSBenchmark"], data_root=mirror)], mirror)
    with pytest.raises(UserError, match="MtebCallback: no tasks are given; name them in tasks, types or benchmark"):
        fit([MtebCallback(every_n_epochs=1)], mirror)
    assert MtebCallback(["STSBenchmark"], data_root=mirror).load(), "a recipe scores the tasks after training"


def test_fast_dev_run_evaluates_once(mirror: str) -> None:
    callback = Scores(["STSBenchmark"], every_n_epochs=5, data_root=mirror)
    fit([callback], mirror, fast_dev_run=True)
    assert len(callback.seen) == 1 and "mteb/average" in callback.seen[0]


def test_max_steps_in_the_middle_of_an_epoch_evaluates(mirror: str) -> None:
    callback = Scores(["STSBenchmark"], every_n_epochs=1, data_root=mirror)
    fit([callback], mirror, max_steps=1, max_epochs=-1)
    assert "mteb/average" in callback.seen[0]


def test_unknown_task_fails_before_training(mirror: str) -> None:
    with pytest.raises(UserError, match="did you mean STSBenchmark"):
        fit([MtebCallback(["STSBenchmrk"], at_end=True, data_root=mirror)], mirror)


def test_two_processes_log_the_same(mirror: str) -> None:
    fit(
        [_SavedScores(["STSBenchmark"], every_n_epochs=1, data_root=mirror)],
        mirror,
        strategy=DDPStrategy(start_method=forkserver()),
        devices=2,
        max_epochs=1,
    )
    first, second = (torch.load(Path(mirror) / f"scores{rank}.pt") for rank in range(2))
    assert first == second and "mteb/average" in first


class _SavedScores(MtebCallback):
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.set_num_threads(1)
        path = Path(trainer.default_root_dir) / f"scores{trainer.global_rank}.pt"
        torch.save({name: float(value) for name, value in trainer.callback_metrics.items()}, path)
