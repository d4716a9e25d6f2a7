"""The trace of a learned merge."""

import csv
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.coefficient_trace import CoefficientTrace


class TwoNumbers(LightningModule):
    """Pulls two coefficients to 1 and 2."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(2))

    def describe_position(self) -> dict[str, float]:
        a, b = self.raw.tolist()
        return {"a/x": a, "a/y": b, "c/x": a / 2, "c/y": b / 2, "scale": a + b}

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        return ((self.raw - torch.tensor([1.0, 2.0])) ** 2).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, checkpoint: str | None = None, **options: Any) -> Trainer:
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=CSVLogger(folder, name="log"),
        callbacks=[CoefficientTrace()],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(TwoNumbers(), DataLoader(torch.zeros(4), batch_size=1), ckpt_path=checkpoint)  # type: ignore[arg-type]
    return trainer


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_row_a_step_and_one_for_the_start(tmp_path: Path) -> None:
    fit(tmp_path, max_epochs=1)
    trace = rows(tmp_path / "coefficients.csv")
    assert [row["step"] for row in trace] == ["0", "1", "2", "3", "4"]
    assert list(trace[0]) == ["step", "a/x", "a/y", "c/x", "c/y", "scale"]
    expected, a = [], 0.0
    for _ in range(5):
        expected.append(a)
        a -= 0.1 * 2 * (a - 1.0)
    torch.testing.assert_close(torch.tensor([float(row["a/x"]) for row in trace]), torch.tensor(expected))


def test_loggers_get_every_step(tmp_path: Path) -> None:
    trainer = fit(tmp_path, max_epochs=1, log_every_n_steps=50)
    logged = [row for row in rows(Path(trainer.loggers[0].log_dir or "") / "metrics.csv") if row.get("scale")]
    assert [row["step"] for row in logged] == ["0", "1", "2", "3", "4"]
    trace = rows(tmp_path / "coefficients.csv")
    assert [row["coefficient/y"] for row in logged] == [row["c/y"] for row in trace]


def test_accumulated_gradients_are_one_step(tmp_path: Path) -> None:
    fit(tmp_path, max_epochs=1, accumulate_grad_batches=2)
    assert [row["step"] for row in rows(tmp_path / "coefficients.csv")] == ["0", "1", "2"]


def test_resumed_run_leaves_the_trace_of_an_unbroken_one(tmp_path: Path) -> None:
    fit(tmp_path / "unbroken", max_epochs=3)
    first = fit(tmp_path / "broken", max_epochs=2)
    checkpoint = tmp_path / "two.ckpt"
    first.save_checkpoint(checkpoint)
    fit(tmp_path / "broken", max_epochs=3)  # went on after the checkpoint, and is thrown away
    fit(tmp_path / "broken", str(checkpoint), max_epochs=3)
    unbroken, broken = (tmp_path / name / "coefficients.csv" for name in ("unbroken", "broken"))
    assert broken.read_text() == unbroken.read_text()


def test_fast_dev_run_writes_no_file(tmp_path: Path) -> None:
    fit(tmp_path, fast_dev_run=True)
    assert not list(tmp_path.rglob("coefficients.csv"))
