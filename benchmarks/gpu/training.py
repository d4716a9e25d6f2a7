"""Experts and positions trained through a Trainer in a process group, validated, and resumed."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from benchmarks.gpu.checks import Checks
from benchmarks.gpu.data import made_up_tasks
from datamodules import ProbeDataModule, TaskDataModule
from modules import Adam, Bfgs, ContrastiveModule, MergeModule, Search

RESUMED = 1e-2
"""Distance of the resumed run's weights from the uninterrupted run's, relative to that which training covered. Without
the optimiser's state it is 0.3. Rounding alone makes some: gradients that should be zero, as those of the bias of
attention keys, are nothing else, and AdamW's steps along them are as large as any."""


class Watch(Callback):
    """Sees the process group and every validation's loss, and saves a checkpoint after one step.

    Args:
        step: after which to save.
        path: of the checkpoint; None saves nothing.
    """

    def __init__(self, step: int = 0, path: Path | None = None) -> None:
        self.step, self.path = step, path
        self.backend = ""
        self.losses: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.backend = dist.get_backend()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.path is not None and trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses.append(float(trainer.callback_metrics["val/loss"]))


def make_trainer(device: torch.device, *callbacks: Callback, **options: Any) -> Trainer:
    """A quiet Trainer of one process in a group: NCCL on a GPU, gloo on the CPU."""
    defaults: dict[str, Any] = {"strategy": "ddp", "logger": False, "enable_checkpointing": False}
    defaults |= {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    accelerator = "cpu" if device.type == "cpu" else "gpu"
    return Trainer(accelerator=accelerator, devices=1, callbacks=list(callbacks), **defaults | options)


def check_training(checks: Checks, folder: Path, experts: dict[str, str], lr: float, device: torch.device) -> None:
    """Train an expert and resume it, learn positions between it and others with two searches, resume one of them.

    Args:
        checks: gets the results.
        folder: has the ``base``; the trained expert is saved here.
        experts: those that the trained one is merged with.
        lr: of the expert.
        device: where to.
    """
    base = folder / "base"
    trained = _expert(checks, base, lr, folder / "expert.ckpt", device)
    trained.save(folder / "trained")
    models = {"trained": str(folder / "trained"), **experts}
    _position(checks, base, models, Adam(0.05), "32-true", device, folder / "position.ckpt")
    _position(checks, base, models, Bfgs(), "bf16-mixed", device, None)


def _expert(checks: Checks, base: Path, lr: float, checkpoint: Path, device: torch.device) -> ContrastiveModule:
    name = "expert, bf16-mixed"
    data = TaskDataModule(made_up_tasks(), batch_size=16)
    options: dict[str, Any] = {"max_steps": 24, "val_check_interval": 8, "check_val_every_n_epoch": None}
    options |= {"precision": "bf16-mixed", "deterministic": "warn"}
    module, resumed = ContrastiveModule(str(base), lr=lr), ContrastiveModule(str(base), lr=lr)
    start = _weights(module)
    losses = _fit(checks, name, module, data, Watch(12, checkpoint), device, options)
    checks.at_most(f"{name}: val/loss at the end, relative to the first", losses[-1] / losses[0], 1.0)
    make_trainer(device, **options).fit(resumed, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    covered, apart = (_weights(module) - start).norm(), (_weights(module) - _weights(resumed)).norm()
    checks.at_most(f"{name}: resumed after step 12, weights as uninterrupted", float(apart / covered), RESUMED)
    return module


def _position(
    checks: Checks,
    base: Path,
    models: dict[str, str],
    search: Search,
    precision: str,
    device: torch.device,
    checkpoint: Path | None,
) -> None:
    name = f"position by {type(search).__name__}, {precision}"
    options: dict[str, Any] = {"max_epochs": 4, "precision": precision, "deterministic": "warn"}
    module, resumed = (MergeModule(str(base), models, search=search, settled=0.0) for _ in range(2))
    losses = _fit(checks, name, module, _probe(), Watch(9, checkpoint), device, options)
    checks.at_most(f"{name}: least val/loss, relative to the base's", min(losses), 0.99)
    if checkpoint is None:
        return
    make_trainer(device, **options).fit(resumed, datamodule=_probe(), ckpt_path=checkpoint, weights_only=True)
    found, expected = resumed.describe_position(), module.describe_position()
    apart = max(abs(found[key] - value) for key, value in expected.items())
    checks.at_most(f"{name}: resumed after step 9, numbers as uninterrupted", apart, 1e-3)


def _probe() -> ProbeDataModule:
    return ProbeDataModule(made_up_tasks(), size=96, validation_size=96, batch_size=16)


def _fit(
    checks: Checks,
    name: str,
    module: LightningModule,
    data: LightningDataModule,
    watch: Watch,
    device: torch.device,
    options: dict[str, Any],
) -> list[float]:
    """Train in the process group that the device wants; returns each validation's loss."""
    make_trainer(device, watch, **options).fit(module, datamodule=data)
    backend = "gloo" if device.type == "cpu" else "nccl"
    checks.true(f"{name}: the process group is {backend} ({watch.backend})", watch.backend == backend)
    return watch.losses


def _weights(module: ContrastiveModule) -> torch.Tensor:
    """All that trains, as one vector."""
    return torch.cat([p.detach().cpu().flatten() for p in module.parameters() if p.requires_grad])
