"""The progress bar of a stage: one line on a terminal, nothing elsewhere."""

import io
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import StageProgressBar


class Terminal(io.StringIO):
    """A stream that says it is a terminal, or not."""

    def __init__(self, answer: bool) -> None:
        super().__init__()
        self.answer = answer

    def isatty(self) -> bool:
        return self.answer


class Validated(LightningModule):
    """Trains one number, and validates after every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.ones(()))

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        return (self.number * batch).sum()

    def validation_step(self, batch: Tensor, _: int) -> None:
        self.log("val/loss", self.training_step(batch, 0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def shown(folder: Path, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """What a fit and a validation write to standard error, each."""
    trainer = Trainer(
        callbacks=[StageProgressBar("expert qa")], default_root_dir=folder, max_epochs=2, accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    rows = DataLoader(torch.ones(6, 1), batch_size=2)  # type: ignore[arg-type]
    written = []
    for call in (lambda module: trainer.fit(module, rows, rows), lambda module: trainer.validate(module, rows)):
        stream = Terminal(terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        call(Validated())
        written.append(stream.getvalue())
    return written[0], written[1]


def test_one_line_with_the_stage_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit, validate = shown(tmp_path, True, monkeypatch)
    assert "expert qa, epoch 0" in fit and "expert qa, epoch 1" in fit and "3/3" in fit
    assert "alidat" not in fit and "Sanity" not in fit
    assert "\n" not in fit and "\x1b[A" not in fit, "more than one line"
    assert not fit.rpartition("\r")[0].rpartition("\r")[2].strip(), "the bar is left behind"
    assert "expert qa, validation" in validate
    assert "it/s" not in capsys.readouterr().out, "a bar among the results"


def test_nothing_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("%|" in written or "expert qa" in written for written in shown(tmp_path, False, monkeypatch))
