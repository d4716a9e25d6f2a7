"""Tokens that are kept are those that each batch would be given, whatever the model, and are made once."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer

from datamodules import Collator, SplitTask, TaskData, TaskDataModule, TextColumn, token_cache
from datamodules.batching import Batch
from datamodules.token_cache import TaskTokens
from modules import ContrastiveModule, TextEncoder
from modules.encoding.text_tokenizer import TextTokenizer
from modules.encoding.tokenization import Tokenization
from modules.losses.task_batch import LossConfig, TaskBatch
from tests.test_families import LONG
from tests.tiny_encoder import WORDS, tiny_encoder
from tests.tiny_families import FAMILIES, TEXTS, save_family

pytestmark = pytest.mark.usefixtures("own_cache")


def data(texts: list[str], prompts: list[str | None] | None = None, **more: Any) -> TaskData:
    """Pairs with a negative; not every row has one."""
    columns = [texts, texts[::-1], ["" if row % 3 == 0 else text for row, text in enumerate(texts)]]
    places = list(range(1, len(texts) + 1))
    return TaskData("t", "pairs", columns, prompts or ["", "", ""], None, None, LossConfig("infonce"), places, **more)


def sentences(count: int) -> list[str]:
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS, draw.integers(1, 9))) for _ in range(count)]


def equal(ours: TaskBatch, theirs: TaskBatch) -> bool:
    """Whether two batches are the same to the byte."""
    for one, other in zip(ours.features, theirs.features, strict=True):
        if one.keys() != other.keys() or not all(_same(one[key], other[key]) for key in one):
            return False
    kept = ("task", "loss", "rows")
    return _same(ours.text_ids, theirs.text_ids) and all(vars(ours)[key] == vars(theirs)[key] for key in kept)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def both(rows: TaskData, tokenization: Tokenization, batch: Batch, used: Any = None) -> tuple[TaskBatch, TaskBatch]:
    """A batch of kept tokens, and of those made for it."""
    tokens = TaskTokens(rows, tokenization, used)
    assert tokens.column(0, np.array([row for _, row in batch])) is not None
    return Collator([rows], tokenization, [tokens])(batch), Collator([rows], tokenization)(batch)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_are_those_of_each_batch(family: str, tmp_path: Path) -> None:
    encoder = TextEncoder.load(save_family(family, tmp_path / "model"))
    rows = data([*TEXTS, LONG, "!", " ", "Zürich"], ["query: ", "", "passage: "])
    for max_length in (None, 5):
        assert equal(*both(rows, encoder.tokenization(max_length), [(0, row) for row in (8, 5, 0, 6, 7, 5)]))


def test_prompts_that_the_pooling_leaves_out(tmp_path: Path) -> None:
    """Each row has a prompt of its own, of which the batch says how many tokens it has."""
    folder = save_family("bert", tmp_path / "model")
    (folder / "1_Pooling/config.json").write_text('{"embedding_dimension": 16, "include_prompt": false}')
    encoder = TextEncoder.load(folder)
    assert encoder.pools_without_prompts
    own = {"query": ["", "the red ", "query: what is ", ""] * 3, "document": ["passage: "] * 12}
    rows = data(sentences(12), instructions=own).subset([3, 2, 2, 11, 7, 1, 0, 6])
    ours, theirs = both(rows, encoder.tokenization(), [(0, row) for row in (1, 0, 5, 4)])
    assert equal(ours, theirs)
    assert len(set(ours.features[0]["prompt_lengths"].tolist())) == 3


def test_negatives_of_several_rows_are_behind_the_prompt_of_each() -> None:
    """Prepared negatives are texts of their own, and rows refer to them."""
    negatives = TextColumn.of(sentences(5)).take([1, 1, 3, 0, 4, 1])
    own = {"document": ["red ", "blue ", "", "", "the ", "a "]}
    columns = [sentences(6), sentences(6), negatives]
    rows = TaskData("t", "pairs", columns, ["", "", ""], None, None, LossConfig("infonce"), instructions=own)
    for used in (None, np.array([1, 5])):
        part = rows.subset([5, 4, 0, 1, 2, 3])
        assert equal(*both(part, tiny_encoder().tokenization(), [(0, row) for row in (1, 5)], used))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is tokenised, with its prompt."""
    seen: list[str] = []
    call = TextTokenizer.__call__

    def noted(self: TextTokenizer, texts: Any, max_length: int) -> Any:
        seen.extend(texts)
        return call(self, texts, max_length)

    monkeypatch.setattr(TextTokenizer, "__call__", noted)
    return seen


def test_a_column_is_tokenised_once_for_all_its_parts(made: list[str]) -> None:
    tokenization, rows = tiny_encoder().tokenization(), data(sentences(50))
    batch = [(0, row) for row in range(20)]
    assert equal(*both(rows.subset(range(5, 45)), tokenization, batch))
    made.clear()
    for part in (rows, rows.subset(range(49, 10, -1)), data(sentences(50)).subset([*range(30)] * 2)):
        TaskTokens(part, tiny_encoder(seed=1).tokenization())
    assert made == []
    others = [tiny_encoder().tokenization(4), TextEncoder.load(tiny_encoder().folder).tokenization()]
    for number, other in enumerate(others):
        TaskTokens(rows, other)
        assert bool(made) == (number == 0), "another length, and another model with the same tokenizer"
        made.clear()
    TaskTokens(data(sentences(50), ["query: ", "", ""]), tokenization)
    assert len(made) == 51, "only the column with another prompt, and the word that sets the length"


def test_only_the_rows_that_are_used_are_tokenised(made: list[str]) -> None:
    tokenization, rows = tiny_encoder().tokenization(), data(sentences(50))
    used = np.array([40, 3, 3, 7])
    assert equal(*both(rows, tokenization, [(0, 7), (0, 40), (0, 3)], used))
    made.clear()
    tokens = TaskTokens(rows, tokenization, used)
    assert made == []
    assert tokens.column(1, np.array([3, 8])) is None, "row 8 is not there"
    collate = Collator([rows], tokenization, [tokens])
    assert equal(collate([(0, 3), (0, 8)]), Collator([rows], tokenization)([(0, 3), (0, 8)]))


def test_a_portion_ends_where_a_tokenizer_holds_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "PORTION", 40)
    rows = data(sentences(200))
    assert equal(*both(rows, tiny_encoder().tokenization(), [(0, row) for row in (199, 0, 77, 78, 3)]))


def test_another_process_maps_the_tokens_itself() -> None:
    rows = data(sentences(50)).subset(range(48))
    collate = Collator([rows], tiny_encoder().tokenization(), [TaskTokens(rows, tiny_encoder().tokenization())])
    batch = [(0, 3), (0, 47)]
    column = collate.tokens[0]._columns[0]
    assert len(pickle.dumps(column._batches)) > len(pickle.dumps(column)) - len(pickle.dumps(column._rows))
    assert equal(pickle.loads(pickle.dumps(collate))(batch), collate(batch))


class Seen(Callback):
    """Keeps the places of all rows that are trained or validated on."""

    def __init__(self) -> None:
        self.places: list[int] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: TaskBatch, *_: Any) -> None:
        self.places += batch.rows or []

    on_validation_batch_start = on_train_batch_start


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_training_tokenises_no_more_rows_than_it_has_steps_for(made: list[str], num_workers: int) -> None:
    rows = data([f"the red cat {number}" for number in range(900)])
    options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    for new in (True, False):
        made.clear()
        seen = Seen()
        trainer = Trainer(max_steps=3, num_sanity_val_steps=0, callbacks=[seen], **options)
        tasks = [SplitTask("t", rows, rows.subset([]), rows.subset([0, 1, 2]))]
        module = ContrastiveModule(str(tiny_encoder().folder), lr=1e-3)
        trainer.fit(module, TaskDataModule(tasks, batch_size=4, num_workers=num_workers))
        trainer.validate(module, TaskDataModule(tasks, batch_size=4, num_workers=num_workers), verbose=False)
        assert len(seen.places) == 3 * 4 + 3
        # Three columns, for each the word that sets the length.
        assert len(made) == (3 * len(seen.places) + 6 if new else 0)
