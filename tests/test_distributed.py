"""Two processes give what one does."""

import json
import os
import random
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from callbacks import CostMeter, GradientConflict
from datamodules import ProbeDataModule, SplitTask, TaskData, TaskDataModule, load_tasks
from lightning_app.__main__ import main
from lightning_app.recipe.recipe_parser import parse
from lightning_app.stages.stage_graph import StageGraph
from lightning_app.verbs.recipe_run import RecipeRun
from modules import Adam, ContrastiveModule, Expert, MergeModule, SphericalMean, TextEncoder, UserError
from modules.losses.task_batch import LossConfig, TaskBatch
from modules.losses.task_loss import task_loss
from modules.positioning.experts import merged_encoder
from modules.positioning.merged_encoder import MergedEncoder
from modules.positioning.task_vectors import load_task_vectors
from tests.conftest import Project
from tests.processes import in_two_processes
from tests.test_stage_versions import all_kinds, results, stages_of
from tests.tiny_checkpoints import edit_json
from tests.tiny_encoder import WORDS, tiny_encoder
from tests.tiny_mirror import write_sts

ROWS = 4


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def whole_batch(name: str) -> tuple[TaskBatch, torch.Tensor]:
    columns = {"infonce": 3, "cosent": 2, "supcon": 1}[name]
    ids = torch.arange(columns * 2 * ROWS).reshape(columns, -1)
    ids[1:, 5] = ids[1:, 1]  # a false negative that lies in the other process
    target = {"cosent": torch.rand(2 * ROWS), "supcon": torch.tensor([0, 1, 2, 0, 3, 1, 0, 1])}.get(name)
    features = [{"input_ids": torch.randn(2 * ROWS, 6)} for _ in range(columns)]
    return TaskBatch("t", LossConfig(name, 0.1), features, ids, target), torch.randn(6, 5)


def part(batch: TaskBatch, rank: int) -> TaskBatch:
    rows = slice(rank * ROWS, (rank + 1) * ROWS)
    features = [{"input_ids": column["input_ids"][rows]} for column in batch.features]
    return TaskBatch(
        "t", batch.loss, features, batch.text_ids[:, rows], batch.target[rows] if batch.target is not None else None
    )


def gradient(batch: TaskBatch, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weight = weight.clone().requires_grad_()
    loss = task_loss(lambda features: features["input_ids"] @ weight, batch).loss
    return loss.detach(), torch.autograd.grad(loss, weight)[0]


def gathered(rank: int, port: int, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    results = {}
    for name in ("infonce", "cosent", "supcon"):
        torch.manual_seed(0)
        batch, weight = whole_batch(name)
        loss, slope = gradient(part(batch, rank), weight)
        dist.all_reduce(loss)
        dist.all_reduce(slope)
        results[name] = (loss / 2, slope / 2)
    if rank == 0:
        torch.save(results, out)
    dist.destroy_process_group()


def test_gathered_losses_and_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    in_two_processes(gathered, free_port(), str(out))
    results = torch.load(out, weights_only=True)
    for name, (loss, slope) in results.items():
        torch.manual_seed(0)
        expected_loss, expected = gradient(*whole_batch(name))
        assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5), name
        assert torch.allclose(slope, expected, atol=1e-5), name


def fit_on_two(project: Project, run_dir: Path) -> None:
    """The command line in a process of its own, so that Lightning can start the second one."""
    command = [sys.executable, "-m", "lightning_app", "fit", "--config", str(project.recipe), "--run_dir", str(run_dir)]
    options = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, env=environment, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]


def expert_of(run_dir: Path) -> dict[str, torch.Tensor]:
    (folder,) = run_dir.glob("stages/model-qa-*")
    return load_file(folder / "model" / "model.safetensors")


def without_dropout(project: Project) -> None:
    tiny_encoder().save(project.base)
    edit_json(project.base / "config.json", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def test_fit_on_two_processes_trains_the_expert_of_one(project: Project) -> None:
    without_dropout(project)
    content = project.content()
    content["recipes"] = {name: recipe | {"batch_size": 8} for name, recipe in content["recipes"].items()}
    write_sts(project.folder)
    mteb = {"tasks": ["STSBenchmark"], "data_root": str(project.folder)}
    project.write(content | {"baselines": ["joint"], "mteb": mteb})
    fit_on_two(project, project.folder / "two")
    for recipe in content["recipes"].values():
        recipe["batch_size"] = 16
    project.write(content | {"baselines": []})
    assert main(["fit", "--config", str(project.recipe), "--run_dir", str(project.folder / "one")]) == 0
    one, two = (expert_of(project.folder / name) for name in ("one", "two"))
    start = load_file(project.base / "model.safetensors")
    assert max(float((one[name] - start[name]).abs().max()) for name in one) > 1e-3
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
    assert (project.folder / "two" / "report.md").is_file()
    names = {path.parent.parent.name for path in (project.folder / "two/mteb/examples").rglob("STSBenchmark.json")}
    assert names == {"local__joint", "local__self_positioning"}


def run_stages(rank: int, port: int, recipe: str, options: list[str]) -> None:
    """Run one stage of every kind, as one of two processes."""
    as_process(rank, port, 2)
    run = RecipeRun(parse("fit", ["--config", recipe, *options]))
    StageGraph(run.settings.run_dir).run_all(stages_of(run, run.models))


def test_every_kind_of_stage_on_two_processes_gives_the_result_of_one(project: Project) -> None:
    without_dropout(project)
    write_sts(project.folder)
    content = project.content()
    content["model"]["search"] = {"class_path": "modules.Bfgs"}
    content["mteb"] = {"tasks": ["STSBenchmark"], "data_root": str(project.folder)}
    content["merges"] = {"half": {"weighting": "greedy"}}
    found = {}
    for devices, rows in ((2, 8), (1, 16)):
        for recipe in content["recipes"].values():
            recipe["batch_size"] = rows  # per process
        project.write(content | {"run_dir": str(project.folder / f"on_{devices}")})
        options = ["--trainer.strategy", "ddp", "--trainer.devices", "2"] if devices == 2 else []
        run = RecipeRun(parse("fit", ["--config", str(project.recipe), *options]))
        graph, stages = StageGraph(run.settings.run_dir), stages_of(run, run.models)
        if devices == 2:
            in_two_processes(run_stages, free_port(), str(project.recipe), options)
            assert not graph.missing(stages)
        graph.run_all(stages)
        found[devices] = {type(stage).__name__: results(stage, graph.folder(stage)) for stage in stages}
    assert set(found[1]) == all_kinds()
    for kind, numbers in found[1].items():
        assert found[2][kind] == pytest.approx(numbers, rel=1e-3, abs=1e-4), kind


def tasks_of_every_loss() -> list[SplitTask]:
    draw = random.Random(0)
    texts = [" ".join(draw.sample(WORDS, draw.randint(3, 6))) for _ in range(120)]
    columns = [texts[:40], texts[40:80], texts[80:]]
    scores = [draw.choice([0.0, 0.25, 0.5, 1.0]) for _ in range(40)]
    labels = [draw.randrange(4) for _ in range(40)]
    data = (
        TaskData("pairs", "pairs", columns, [""] * 3, None, None, LossConfig("infonce", 0.1)),
        TaskData("graded", "graded", columns[:2], [""] * 2, scores, None, LossConfig("cosent", 0.1)),
        TaskData("labelled", "labelled", columns[:1], [""], labels, None, LossConfig("supcon", 0.1)),
    )
    return [SplitTask(task.name, task, task, task) for task in data]


def as_process(rank: int, port: int, devices: int) -> dict[str, Any]:
    """Be one of the processes that a launcher would start: the arguments of the Trainer."""
    if devices == 1:
        return {"devices": 1}
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(devices)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    return {"strategy": "ddp", "devices": devices}


def train_expert(rank: int, port: int, folder: str, devices: int) -> None:
    """Nine steps, three with each loss, on 8 rows over all processes."""
    module = ContrastiveModule(str(Path(folder) / "base"), lr=1e-3)
    trainer = Trainer(
        accelerator="cpu", max_steps=9, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, limit_train_batches=9,
        **as_process(rank, port, devices),
    )  # fmt: skip
    seen: list[str] = []
    module.on_train_batch_start = lambda batch, _: seen.append(batch.task)  # type: ignore[method-assign]
    trainer.fit(module, datamodule=TaskDataModule(tasks_of_every_loss(), batch_size=8 // devices))
    if rank == 0:
        torch.save({"state": module.state_dict(), "seen": seen}, Path(folder) / f"expert-{devices}.pt")


def test_an_expert_of_every_loss_on_two_processes_is_that_of_one(project: Project) -> None:
    without_dropout(project)
    train_expert(0, 0, str(project.folder), 1)
    in_two_processes(train_expert, free_port(), str(project.folder), 2)
    one, two = (torch.load(project.folder / f"expert-{n}.pt", weights_only=True) for n in (1, 2))
    assert one["seen"] == two["seen"]
    assert set(one["seen"]) == {"pairs", "graded", "labelled"}
    start = load_file(project.base / "model.safetensors")
    moved = [(one["state"][f"encoder.pipeline.0.model.{name}"] - weight).abs().max() for name, weight in start.items()]
    assert max(moved) > 3e-3
    for name, weight in one["state"].items():
        assert (weight - two["state"][name]).abs().max() < 1e-5, name


class Traffic(Callback):
    """Counts what DDP sends: numbers in its gradient buckets, what is broadcast from the start, and all the rest."""

    def __init__(self) -> None:
        self.payloads: list[int] = []
        self.broadcast: list[int] = []
        self.others: list[int] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        original = dist._broadcast_coalesced  # DDP sends parameters and buffers with it

        def counted(group: Any, tensors: list[torch.Tensor], *arguments: Any) -> None:
            self.broadcast.append(sum(t.numel() for t in tensors))
            original(group, tensors, *arguments)

        if trainer.world_size > 1:
            dist._broadcast_coalesced = counted

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model: Any = trainer.model
        if not isinstance(model, DistributedDataParallel):
            return

        def hook(state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
            self.payloads.append(bucket.buffer().numel())
            future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
            return future.then(lambda f: f.value()[0] / 2)

        model.register_comm_hook(None, hook)
        for name in ("broadcast", "all_gather", "all_reduce"):
            self._count(name)

    def _count(self, name: str) -> None:
        original = getattr(dist, name)

        def counted(first: Any, *arguments: Any, **options: Any) -> Any:
            tensors = first if isinstance(first, list) else [first]
            self.others.append(max(t.numel() for t in tensors))
            return original(first, *arguments, **options)

        setattr(dist, name, counted)


def tiny_merge(project: Path) -> tuple[MergeModule, ProbeDataModule]:
    sources = {"qa": str(project / "qa.jsonl"), "sts": str(project / "sts.jsonl")}
    tasks = load_tasks(sources, probe_size=24, validation_size=16)
    experts = {name: Expert(path=str(project / name)) for name in tasks}
    merge = MergeModule(str(project / "base"), experts, search=Adam(0.05), settled=0.0, allow_suspicious=True)
    return merge, ProbeDataModule(list(tasks.values()), size=48, validation_size=32, batch_size=8)


def learn_position(rank: int, port: int, folder: str, devices: int) -> None:
    project = Path(folder)
    merge, data = tiny_merge(project)
    traffic = Traffic()
    options = as_process(rank, port, devices) | ({} if devices == 2 else {"accumulate_grad_batches": 2})
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[traffic], limit_val_batches=0, **options,
    )  # fmt: skip
    trainer.fit(merge, datamodule=data)
    merge.best.numbers = None
    if rank == 0:
        sent = {"payloads": traffic.payloads, "broadcast": traffic.broadcast, "others": traffic.others}
        torch.save({"state": merge.position.state_dict(), **sent}, project / f"position-{devices}.pt")


def test_a_position_on_two_processes_is_that_of_accumulated_batches(project: Project) -> None:
    for seed, name in enumerate(("qa", "sts"), start=1):
        tiny_encoder(seed=seed).save(project.folder / name)
    in_two_processes(learn_position, free_port(), str(project.folder), 2)
    learn_position(0, 0, str(project.folder), 1)
    two, one = (torch.load(project.folder / f"position-{n}.pt", weights_only=True) for n in (2, 1))
    for name, value in one["state"].items():
        assert torch.allclose(value, two["state"][name], atol=1e-5), name
    assert len(two["payloads"]) == 6
    assert set(two["payloads"]) == {3}  # N + 1 numbers for N = 2
    assert two["broadcast"] == [3]  # once, at the start, and nothing frozen
    assert max(two["others"]) <= 4


class TwoPasses(nn.Module):
    """A loss of two forward passes, as of the two columns of a batch."""

    def __init__(self, encoder: MergedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, texts: list[str]) -> torch.Tensor:
        anchors, positives = (self.encoder(self.encoder.tokenize(part)) for part in (texts, texts[::-1]))
        return (anchors @ positives.T).exp().mean()


def layers_of(folder: str) -> TwoPasses:
    """A position with numbers of its own in each layer, whose layers are checkpointed."""
    base, experts = TextEncoder.load(f"{folder}/base"), {name: f"{folder}/{name}" for name in ("qa", "sts")}
    encoder = merged_encoder(base, load_task_vectors(base, experts), experts, SphericalMean(), "layer")
    encoder.base.backbone.gradient_checkpointing_enable()
    return TwoPasses(encoder)


def accumulate(rank: int, port: int, folder: str) -> None:
    """Two steps of two micro-batches each, of which only the second is reduced."""
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = layers_of(folder)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.encoder.position.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        with parallel.no_sync():
            parallel(WORDS[rank : rank + 3]).backward()
        parallel(WORDS[rank + 5 : rank + 9]).backward()
        optimizer.step()
    torch.save(model.encoder.position.state_dict(), f"{folder}/numbers-{rank}.pt")
    dist.destroy_process_group()


def test_gradients_that_data_parallel_training_accumulates_are_those_of_one_process(experts: Project) -> None:
    folder = experts.folder
    in_two_processes(accumulate, free_port(), str(folder))
    first, second = (torch.load(folder / f"numbers-{rank}.pt", weights_only=True) for rank in range(2))
    model = layers_of(str(folder))
    start = {name: value.clone() for name, value in model.encoder.position.state_dict().items()}
    optimizer = torch.optim.SGD(model.encoder.position.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        for rank in range(2):
            (model(WORDS[rank : rank + 3]) / 2).backward()
            (model(WORDS[rank + 5 : rank + 9]) / 2).backward()
        optimizer.step()
    for name, value in model.encoder.position.state_dict().items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], value, atol=1e-5), name
        assert (value - start[name]).abs().amax() > 1e-3


def meet_nan(rank: int, port: int, folder: str) -> None:
    """The third batch of the second process is NaN."""
    merge, data = tiny_merge(Path(folder))

    encode = merge.encoder.forward
    calls: list[str] = []

    def training_loss(batch: TaskBatch, gather: Any) -> Any:
        calls.append(batch.task)
        if rank == 1 and len(calls) == 3:
            merge.encoder.forward = lambda features: encode(features) * torch.nan  # type: ignore[method-assign]
        return MergeModule.training_loss(merge, batch, gather)

    merge.training_loss = training_loss  # type: ignore[method-assign]
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **as_process(rank, port, 2),
    )  # fmt: skip
    try:
        trainer.fit(merge, datamodule=data)
    except UserError as error:
        start = merge.best.numbers
        kept = all(torch.equal(start[name], value) for name, value in merge.position.state_dict().items())
        (Path(folder) / f"stopped-{rank}").write_text(f"{len(calls)} {kept} {error}")


def test_a_loss_that_is_not_finite_in_one_process_ends_both(project: Project) -> None:
    for seed, name in enumerate(("qa", "sts"), start=1):
        tiny_encoder(seed=seed).save(project.folder / name)
    in_two_processes(meet_nan, free_port(), str(project.folder))
    first, second = ((project.folder / f"stopped-{rank}").read_text() for rank in range(2))
    assert re.fullmatch(
        r"3 True the loss of '(qa|sts)'.* is nan after 2 steps; look at these rows, or lower .*", second
    )
    assert first == second.replace("the loss", "process 1 failed: UserError: the loss")


def train_joint(rank: int, port: int, folder: str, devices: int) -> None:
    """Three steps on 8 rows over all processes, measured and not."""
    for measured in (True, False):
        out = Path(folder) / f"joint-{measured}"
        callbacks: list[Callback] = [CostMeter(out), GradientConflict(out, every_n_steps=1)] if measured else []
        module = ContrastiveModule(str(Path(folder) / "base"), lr=1e-3)
        trainer = Trainer(
            accelerator="cpu", max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, val_check_interval=3, check_val_every_n_epoch=None,
            callbacks=callbacks, **as_process(rank, port, devices),
        )  # fmt: skip
        trainer.fit(module, datamodule=TaskDataModule(tasks_of_every_loss(), batch_size=8 // devices))
        trainer.save_checkpoint(out / "last.ckpt")


def test_costs_and_conflicts_of_two_processes(project: Project) -> None:
    """Costs are those of both, the main process compares gradients, and training does not notice."""
    without_dropout(project)
    in_two_processes(train_joint, free_port(), str(project.folder), 2)
    with_both, plain = (torch.load(project.folder / f"joint-{m}" / "last.ckpt") for m in (True, False))
    assert all(torch.equal(plain["state_dict"][name], w) for name, w in with_both["state_dict"].items())
    cost = json.loads((project.folder / "joint-True" / "cost.json").read_text())
    assert (cost.pop("steps"), cost["examples"]) == (3, 3 * 8)
    assert with_both["callbacks"]["CostMeter"]["counts"] == cost
    # An encoder's forward pass over the 40 rows of each data set, of two texts or more, padded to 5 to 8 tokens.
    per_token = 2 * 2 * (4 * 16 * 16 + 2 * 16 * 32)
    assert 6 * 40 * 5 * per_token < cost["validation_flops"] < 1.3 * 6 * 40 * 8 * per_token
    rows = (project.folder / "joint-True" / "gradient_cosines.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(step) for step in range(4) for _ in range(3)]
