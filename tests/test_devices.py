"""What processes tell each other is on the module's device: NCCL has no way for tensors of the CPU.

On a machine without an accelerator all tensors are on one device, so a tensor that would be on another cannot be told
by its device. It can be told by where it comes from: it follows the module if it was put on a device by name, or was
computed from what was.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from datamodules import ProbeDataModule, TaskDataModule
from modules import Adam, Bfgs, ContrastiveModule, Expert, MergeModule, Search
from tests.conftest import Project
from tests.test_distributed import tasks_of_every_loss


class Followed(TorchFunctionMode):
    """Marks tensors that follow a device, and notes where others are sent to other processes."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []
        self.stray: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if getattr(func, "__name__", "") in ("cpu", "numpy"):
            return found.view_as(found) if isinstance(found, Tensor) else found  # another object, without the mark
        given = [*args, *kwargs.values()]
        placed = any(isinstance(value, torch.device) for value in given)
        if placed or any(followed(value) for value in given):
            mark(found)
        return found

    def check(self, what: str, value: Any) -> None:
        tensors = [tensor for tensor in (value if isinstance(value, list) else [value]) if isinstance(tensor, Tensor)]
        if tensors:
            self.sent.append(what)
        if not all(followed(tensor) for tensor in tensors):
            self.stray.append(what)


def mark(value: Any) -> None:
    if isinstance(value, Tensor):
        value.follows = True  # type: ignore[attr-defined]
    elif isinstance(value, tuple | list):
        for part in value:
            mark(part)


def followed(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(followed(part) for part in value)
    return getattr(value, "follows", False)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Followed]:
    """One process that takes itself for the first of two."""
    mode = Followed()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    for name in ("all_reduce", "all_gather", "broadcast", "reduce"):
        spy(monkeypatch, dist, name, mode, lambda *args, **_: args)
    spy(monkeypatch, SingleDeviceStrategy, "reduce", mode, lambda _, tensor, **rest: [tensor])
    spy(monkeypatch, LightningModule, "log", mode, lambda _, name, value, **rest: [value], only="sync_dist")
    yield mode
    dist.destroy_process_group()


def spy(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, mode: Followed, sent: Callable[..., Any], only: str = ""
) -> None:
    original = getattr(owner, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
        # Within a backward pass nothing is marked: gradients are where their tensors are.
        if torch._C._is_torch_function_mode_enabled() and (not only or kwargs.get(only)):
            label = f"{name}({kwargs.get('name') or args[1]})" if only else name
            for value in sent(*args, **kwargs):
                mode.check(label, value)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, noted)


def run(mode: Followed, module: LightningModule, data: Any) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        mark(tensor)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with mode:
        for verb in ("fit", "validate"):
            trainer = Trainer(
                accelerator="cpu", devices=1, max_steps=2, limit_val_batches=2, enable_model_summary=False,
                num_sanity_val_steps=0, val_check_interval=1, check_val_every_n_epoch=None, **quiet,
            )  # fmt: skip
            getattr(trainer, verb)(module, datamodule=data)
    assert mode.stray == []


def test_what_an_expert_sends_is_on_its_device(project: Project, device: Followed) -> None:
    run(device, ContrastiveModule(str(project.base)), TaskDataModule(tasks_of_every_loss(), batch_size=8))
    assert {"log(val/loss)", "log(val/pairs/mrr)", "log(val/graded/spearman)", "all_gather"} <= set(device.sent)


@pytest.mark.parametrize("search", [Adam(), Bfgs()])
def test_what_a_merge_sends_is_on_its_device(experts: Project, device: Followed, search: Search) -> None:
    folders = {name: Expert(path=str(experts.folder / name)) for name in ("qa", "sts")}
    merge = MergeModule(str(experts.base), folders, search=search, allow_suspicious=True)
    run(device, merge, ProbeDataModule(tasks_of_every_loss(), size=48, validation_size=48, batch_size=8))
    assert {"log(val/loss)", "log(val/pairs/mrr)", "reduce", "all_gather"} <= set(device.sent)


def test_a_tensor_of_its_own_does_not_follow_a_module() -> None:
    layer = nn.Linear(2, 2)
    for parameter in layer.parameters():
        mark(parameter)
    with Followed():
        there = layer(torch.ones(2, device=layer.weight.device)).sum()
        assert followed(there)
        assert followed(there.new_tensor(1.0)) and followed(torch.tensor(1.0).to(layer.weight.device))
        assert not followed(torch.tensor(float(there)))
        assert not followed(there.cpu())
        assert not followed(torch.zeros(2))
