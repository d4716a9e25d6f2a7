import pickle
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from datamodules import (
    Collator,
    OneTaskBatches,
    ProbeDataModule,
    ResumableLoader,
    SplitTask,
    TaskData,
    TaskDataModule,
    apportion,
    evaluation_batches,
    text_id,
)
from datamodules.batching import Batch, Mode
from datamodules.collate import Tokenize
from modules.encoding.features import Features
from modules.errors import UserError
from modules.losses.info_nce import same_text_mask
from modules.losses.task_batch import NO_TEXT, LossConfig, TaskBatch

NAMES = ["big", "small"]
SIZES = [50, 20]


def schedule(**options: Any) -> OneTaskBatches:
    return OneTaskBatches(NAMES, SIZES, SIZES, options.pop("batch_size", 4), **options)


def epochs(batches: OneTaskBatches, number: int) -> list[Batch]:
    seen = []
    for _ in range(number):
        for batch in batches:
            seen.append(batch)
            batches.advance()
    return seen


def pairs(name: str, size: int) -> TaskData:
    texts = [[f"{name} {column} {row}" for row in range(size)] for column in ("anchor", "positive")]
    return TaskData(name, "pairs", texts, ["query: ", ""], None, None, LossConfig("infonce"))


def split(name: str, size: int, share: float | None = None) -> SplitTask:
    data = pairs(name, size)
    return SplitTask(name, data, data.subset(range(size // 2)), data.subset(range(9)), share)


def tokenize(texts: list[str], max_length: int | None = None, prompts: Sequence[str] = ()) -> Features:
    prompted = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
    codes = [[ord(letter) for letter in text[:max_length]] for text in prompted]
    width = max(map(len, codes))
    ids = torch.tensor([code + [0] * (width - len(code)) for code in codes])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


@pytest.mark.parametrize(
    ("total", "weights", "counts"),
    [(10, [3, 1], [8, 2]), (9, [1, 1], [5, 4]), (7, [0.2, 0.3, 0.5], [1, 2, 4]), (0, [1, 2], [0, 0])],
)
def test_apportion_adds_up_exactly(total: int, weights: list[float], counts: list[int]) -> None:
    assert apportion(total, weights) == counts


def test_batches_are_full_and_of_one_data_set() -> None:
    for batch in epochs(schedule(), 5):
        assert len(batch) == 4
        assert len({task for task, _ in batch}) == 1


def test_an_epoch_is_apportioned_exactly() -> None:
    batches = OneTaskBatches(NAMES, SIZES, [1, 3], 4, batches_per_epoch=8)
    assert len(batches) == 8
    for _ in range(3):
        assert Counter(batch[0][0] for batch in epochs(batches, 1)) == {0: 2, 1: 6}


def test_every_row_is_seen_equally_often() -> None:
    rows = Counter(row for batch in epochs(schedule(batch_size=10), 5) for row in batch)
    assert set(rows.values()) == {5}
    assert len(rows) == sum(SIZES)


def test_a_batch_depends_on_seed_and_position_only() -> None:
    whole = epochs(schedule(seed=3), 3)
    later = schedule(seed=3)
    later.load_state_dict({"epoch": 1, "batch": 5})
    assert epochs(later, 2) == whole[len(later) + 5 :]
    assert epochs(schedule(seed=4), 3) != whole
    assert epochs(schedule(seed=3), 1) != whole[len(later) : 2 * len(later)]


def test_the_rows_of_a_data_set_are_shuffled_anew_in_each_pass() -> None:
    rows: list[list[int]] = [[], []]
    for batch in epochs(schedule(seed=3), 6):
        for task, row in batch:
            rows[task].append(row)
    for task, size in enumerate(SIZES):
        passes = [np.random.default_rng([3, task, number]).permutation(size) for number in range(9)]
        assert rows[task] == np.concatenate(passes)[: len(rows[task])].tolist()


@pytest.mark.parametrize("mode", ["rows", "batches"])
@pytest.mark.parametrize("batches", [0, 3, 8, 11, 40])
def test_the_rows_that_the_first_batches_use(mode: Mode, batches: int) -> None:
    parts = [schedule(batch_size=2, rank=rank, world_size=2, mode=mode) for rank in range(2)]
    seen: list[set[int]] = [set(), set()]
    for part in parts:
        for batch in epochs(part, 6)[:batches]:
            seen[batch[0][0]].update(row for _, row in batch)
    assert [set(rows.tolist()) for rows in schedule(batch_size=2, world_size=2, mode=mode).first_rows(batches)] == seen


def test_processes_share_the_rows_of_a_batch() -> None:
    whole = epochs(schedule(batch_size=4), 3)
    parts = [epochs(schedule(batch_size=2, rank=rank, world_size=2), 3) for rank in range(2)]
    assert [left + right for left, right in zip(*parts, strict=True)] == whole


def test_processes_take_whole_batches_in_turn() -> None:
    one = epochs(schedule(mode="batches", batches_per_epoch=18), 3)
    parts = [epochs(schedule(mode="batches", batches_per_epoch=18, rank=rank, world_size=2), 3) for rank in range(2)]
    assert [batch for turn in zip(*parts, strict=True) for batch in turn] == one


def test_processes_get_equally_many_batches() -> None:
    assert [len(schedule(mode="batches", rank=rank, world_size=2)) for rank in range(2)] == [9, 9]
    assert len(schedule(mode="batches")) == 17


def test_a_data_set_smaller_than_a_batch() -> None:
    with pytest.raises(UserError, match="small: 20 rows are less than a batch of 24; lower batch_size"):
        schedule(batch_size=12, world_size=2)


def test_a_data_set_that_gets_no_batch() -> None:
    with pytest.raises(UserError, match="small: gets none of the 17 batches of an epoch; raise its share"):
        OneTaskBatches(NAMES, SIZES, [1, 0.001], 4)


@pytest.mark.parametrize(("size", "lengths"), [(9, [3, 3, 3]), (10, [4, 3, 3]), (8, [4, 4]), (1, [1]), (0, [])])
def test_evaluation_sees_every_row_once(size: int, lengths: list[int]) -> None:
    batches = evaluation_batches(size, 4)
    assert [len(batch) for batch in batches] == lengths
    assert [row for batch in batches for _, row in batch] == list(range(size))
    parts = [evaluation_batches(size, 4, rank=rank, world_size=2) for rank in range(2)]
    assert sorted(row for part in parts for batch in part for row in batch) == [(0, row) for row in range(size)]


def test_collator_makes_a_task_batch() -> None:
    graded = TaskData("g", "graded", [["a", "b"], ["b", "c"]], ["", ""], [0.0, 1.0], None, LossConfig("cosent"))
    labelled = TaskData("l", "labelled", [["a"]], [""], [3], None, LossConfig("supcon"))
    collate = pickle.loads(pickle.dumps(Collator([pairs("p", 3), graded, labelled], tokenize)))
    batch = collate([(0, 2), (0, 0)])
    assert (batch.task, batch.loss.name, len(batch), batch.target) == ("p", "infonce", 2, None)
    assert batch.text_ids.tolist()[0] == [text_id("p anchor 2"), text_id("p anchor 0")]
    assert [features["input_ids"].shape for features in batch.features] == [(2, 17), (2, 12)]
    batch = collate([(1, 0), (1, 1)])
    assert batch.text_ids[0, 1] == batch.text_ids[1, 0]
    assert (batch.target.dtype, batch.target.tolist()) == (torch.float32, [0.0, 1.0])
    assert collate([(2, 0)]).target.dtype == torch.int64
    assert batch.rows is None


def test_a_row_may_have_fewer_negatives() -> None:
    data = TaskData(
        "p", "pairs", [["a", "b"], ["c", "d"], ["e", ""]], ["", "", "p: "], None, None, LossConfig("infonce")
    )
    batch = Collator([data], tokenize)([(0, 1), (0, 0)])
    assert batch.text_ids[2].tolist() == [NO_TEXT, text_id("e")]
    assert len(batch.features[2]["input_ids"]) == 2


@pytest.mark.parametrize("prompts", [["", "", ""], ["query: ", "passage: ", ""]])
def test_prompts_hide_no_false_negatives(prompts: list[str]) -> None:
    """A candidate that is the anchor itself, or the positive of the row, is no negative of it."""
    columns = [["cat", "dog", "bird"], ["lion", "cat", "crow"], ["x", "lion", "y"]]
    data = TaskData("p", "pairs", columns, prompts, None, None, LossConfig("infonce"), places=[3, 5, 8])
    batch = Collator([data], tokenize)([(0, 0), (0, 1), (0, 2)])
    anchors, *others = batch.text_ids
    mask = same_text_mask(anchors, anchors, torch.cat(others), torch.arange(3))
    assert mask.nonzero().tolist() == [[0, 1], [0, 4]]
    assert batch.rows == [3, 5, 8]


class Recorder(LightningModule):
    """A tiny model that keeps the text identifiers of every batch it is trained and validated on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.trained: list[list[int]] = []
        self.validated: list[tuple[int, int]] = []

    side_prompts: ClassVar = {"query": "", "document": "", "text": ""}

    def tokenization(self, max_length: int | None = None) -> Tokenize:
        return partial(tokenize, max_length=max_length)

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        self.trained.append(batch.text_ids[0].tolist())
        return (self.weight * batch.features[0]["input_ids"].float().mean()).sum()

    def validation_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validated.append((dataloader_idx, len(batch)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, **quiet, **options)


def data(num_workers: int = 0) -> TaskDataModule:
    return TaskDataModule([split("big", 50), split("small", 20)], batch_size=4, max_length=12, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("step", [5, 17, 20])
def test_a_resumed_run_sees_the_batches_that_were_left(tmp_path: Path, num_workers: int, step: int) -> None:
    """Step 17 is the end of the first epoch; workers have fetched ahead of the checkpoint."""
    whole = Recorder()
    save = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=step, save_top_k=-1)
    trainer(tmp_path, max_steps=40, callbacks=[save]).fit(whole, data())
    resumed = Recorder()
    trainer(tmp_path, max_steps=40, enable_checkpointing=False).fit(
        resumed, data(num_workers), ckpt_path=str(tmp_path / f"step={step}.ckpt")
    )
    assert len(whole.trained) == 40
    assert resumed.trained == whole.trained[step:]


def test_workers_do_not_change_the_order_nor_the_random_state(tmp_path: Path) -> None:
    runs = []
    for num_workers in (0, 2):
        torch.manual_seed(0)
        module = Recorder()
        trainer(tmp_path, max_epochs=2, enable_checkpointing=False).fit(module, data(num_workers))
        runs.append((module.trained, module.validated, torch.rand(3).tolist()))
    assert runs[0] == runs[1]
    assert len(runs[0][0]) == 34


def test_a_limit_on_batches_goes_on_where_it_stopped(tmp_path: Path) -> None:
    limited, whole = Recorder(), Recorder()
    trainer(tmp_path, max_steps=20, limit_train_batches=5, enable_checkpointing=False).fit(limited, data())
    trainer(tmp_path, max_steps=20, enable_checkpointing=False).fit(whole, data())
    assert limited.trained == whole.trained


def test_validation_has_one_loader_a_data_set(tmp_path: Path) -> None:
    module, datamodule = Recorder(), data()
    trainer(tmp_path).validate(module, datamodule)
    assert list(datamodule.task_losses) == NAMES
    assert Counter(module.validated) == {(loader, 3): 3 for loader in range(2)}


def test_probe_batches_are_balanced(tmp_path: Path) -> None:
    module = Recorder()
    probe = ProbeDataModule([split("big", 80), split("small", 40)], size=32, validation_size=8, batch_size=4)
    trainer(tmp_path, max_epochs=1, enable_checkpointing=False).fit(module, probe)
    assert len(module.trained) == 8
    big = {text_id(text) for text in probe.splits[0].probe.texts[0]}
    assert sum(set(batch) <= big for batch in module.trained) == 4


def test_shares_set_the_number_of_batches(tmp_path: Path) -> None:
    module = Recorder()
    tasks = [split("big", 50, share=1.0), split("small", 20, share=3.0)]
    trainer(tmp_path, max_epochs=1, enable_checkpointing=False).fit(module, TaskDataModule(tasks, batch_size=4))
    big = {text_id(text) for text in tasks[0].expert.texts[0]}
    assert Counter(set(batch) <= big for batch in module.trained) == {True: 4, False: 13}


def test_max_length_reaches_the_tokenizer(tmp_path: Path) -> None:
    datamodule = data()
    datamodule.setup()
    datamodule.trainer = trainer(tmp_path)
    datamodule.trainer.strategy._lightning_module = Recorder()
    loader = datamodule.train_dataloader()
    assert isinstance(loader, ResumableLoader)
    assert next(iter(loader)).features[0]["input_ids"].shape == (4, 12)


def test_a_batch_of_one_row() -> None:
    with pytest.raises(UserError, match="batch_size is 1; in-batch losses need at least 2"):
        TaskDataModule([split("big", 50)], batch_size=1)
