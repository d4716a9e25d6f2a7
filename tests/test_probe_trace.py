"""The trace of the probe losses of a learned merge."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import ProbeTrace


class OneNumber(LightningModule):
    """Pulls a number to 1, and calls its distance the loss of a data set."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(1))
        self.relative_losses: dict[str, float] = {}
        self.resumed = False

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.resumed = True

    def on_fit_start(self) -> None:
        self.relative_losses = {} if self.resumed else {"faq": 1.0}

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        return ((self.raw - 1) ** 2).sum()

    def validation_step(self, batch: Tensor, _: int) -> None:
        if not self.trainer.sanity_checking:
            self.relative_losses = {"faq": float((self.raw - 1).abs())}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, checkpoint: Path | None = None, **options: object) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        logger=CSVLogger(folder, name="log"),
        callbacks=[ProbeTrace(folder)],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,  # type: ignore[arg-type]
    )
    loader = DataLoader(torch.zeros(4), batch_size=1)  # type: ignore[arg-type]
    trainer.fit(OneNumber(), loader, loader, ckpt_path=checkpoint)
    return trainer


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("sanity", [0, 2])
def test_the_start_and_every_validation_are_kept_and_logged(tmp_path: Path, sanity: int) -> None:
    trainer = fit(tmp_path, max_epochs=2, num_sanity_val_steps=sanity, log_every_n_steps=50)
    trace = rows(tmp_path / ProbeTrace.FILE)
    assert [row["step"] for row in trace] == ["0", "4", "8"]
    assert [float(row["faq"]) for row in trace][1:] == pytest.approx([0.8**4, 0.8**8])
    logged = [row for row in rows(Path(trainer.loggers[0].log_dir or "") / "metrics.csv") if row["probe/faq/loss"]]
    assert [(row["step"], row["probe/faq/loss"]) for row in logged] == [(row["step"], row["faq"]) for row in trace]


def test_a_resumed_run_leaves_the_trace_of_an_unbroken_one(tmp_path: Path) -> None:
    fit(tmp_path / "unbroken", max_epochs=3)
    checkpoint = tmp_path / "two.ckpt"
    fit(tmp_path / "broken", max_epochs=2).save_checkpoint(checkpoint)
    fit(tmp_path / "broken", checkpoint, max_epochs=3)
    unbroken, broken = (rows(tmp_path / name / ProbeTrace.FILE) for name in ("unbroken", "broken"))
    assert broken == unbroken and len(broken) == 4


def test_fast_dev_run_writes_no_file(tmp_path: Path) -> None:
    fit(tmp_path, fast_dev_run=True)
    assert not list(tmp_path.rglob(ProbeTrace.FILE))
