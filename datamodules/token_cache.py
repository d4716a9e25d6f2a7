"""Token ids of the texts of a data set: made once per tokenizer, on all cores, kept on Arrow, and memory-mapped."""

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm.auto import tqdm

from datamodules.row_cache import prepared
from datamodules.task_data import TaskData
from datamodules.text_column import TextColumn
from datamodules.text_ids import TextIds, text_ids
from modules.encoding.features import Features, TokenIds
from modules.encoding.tokenization import Tokenization

FILE = "tokens.arrow"
PORTION = 2**19
"""Characters tokenised in one go; a tokenizer holds a hundred bytes for every token of a text."""

SECONDS_WITHOUT_BAR = 2

Portion = list[tuple[str, str]]
"""Prompts and texts."""


class TaskTokens:
    """The token ids of a data set, of all rows that are going to be used.

    Where these are half of the rows that were prepared or more, all are tokenised, for any other part of the data set
    to find them; else these alone, so that a short training does not wait for a large data set.

    Args:
        data: with the prompts of the model.
        tokenization: the model's, with a key.
        used: rows that will be asked for, counted from 0; None: all.
    """

    def __init__(self, data: TaskData, tokenization: Tokenization, used: NDArray[np.int64] | None = None) -> None:
        self._data, self._tokenization = data, tokenization
        self._columns = [self._made(column, used) for column in range(len(data.texts))]

    def column(self, column: int, rows: NDArray[np.int64]) -> tuple[Features, TextIds] | None:
        """Return features and numbers of the texts of some rows of a column; None: not all of them are there."""
        found = self._columns[column].of(rows)
        if found is None:
            return None
        ids, numbers = found
        own = self._data.row_prompts(column, rows.tolist()) if self._tokenization.pools_without_prompts else []
        return self._tokenization.features(ids, own), numbers

    def _made(self, column: int, used: NDArray[np.int64] | None) -> "TokenColumn":
        texts, own = self._data.texts[column], self._data.instructions.get(self._data.sides[column])
        prompts: str | TextColumn = str(self._data.prompts[column]) if own is None else own.whole
        whole, rows = texts.whole, texts.rows
        if own is not None and not (len(own.whole) == len(whole) and _same(own.rows, rows)):
            # One negative belongs to several rows, each with a prompt of its own.
            whole, prompts, rows = texts, own, None
        kept = _kept_rows(rows, len(whole), used)
        if kept is not None:
            whole, prompts = whole.take(kept), prompts if isinstance(prompts, str) else prompts.take(kept)
        parts = [self._tokenization.key, whole.digest(), prompts if isinstance(prompts, str) else [prompts.digest()]]
        key = hashlib.sha256(repr(parts).encode()).hexdigest()
        folder = prepared(f"tokens-{key}", partial(_write, whole, prompts, self._tokenization, self._data.name))
        return TokenColumn(folder / FILE, rows, kept)


class TokenColumn:
    """The token ids of a text column, memory-mapped.

    Args:
        file: that `_write` made.
        rows: which rows of the whole column it has; None: all.
        kept: which of those the file has, in increasing order; None: all.
    """

    def __init__(self, file: Path, rows: NDArray[np.int64] | None, kept: NDArray[np.int64] | None) -> None:
        self._file, self._rows, self._kept = file, rows, kept
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._batches = [_arrays(batch) for batch in batches]
        self._ends = np.cumsum([batch.num_rows for batch in batches])

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process maps the file itself."""
        return TokenColumn, (self._file, self._rows, self._kept)

    def of(self, rows: NDArray[np.int64]) -> tuple[list[TokenIds], TextIds] | None:
        """Return token ids and numbers of the texts of some rows; None: not all of them are there."""
        places = self._places(rows)
        if places is None:
            return None
        numbers = np.searchsorted(self._ends, places, side="right")
        starts = np.concatenate([[0], self._ends])[numbers]
        ids, texts = [], []
        for number, place in zip(numbers.tolist(), (places - starts).tolist(), strict=True):
            offsets, values, text_id = self._batches[number]
            ids.append(values[offsets[place] : offsets[place + 1]])
            texts.append(text_id[place])
        return ids, np.array(texts, dtype=np.int64)

    def _places(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        wanted = rows if self._rows is None else self._rows[rows]
        if self._kept is None:
            return wanted
        places = np.minimum(np.searchsorted(self._kept, wanted), len(self._kept) - 1)
        return places if np.array_equal(self._kept[places], wanted) else None


def _kept_rows(rows: NDArray[np.int64] | None, size: int, used: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    """Rows of the whole column to tokenise, in increasing order; None: all.

    Args:
        rows: of the whole column, which a data set has; None: all.
        size: rows of the whole column.
        used: which rows of the data set will be asked for; None: all.
    """
    chosen = used if rows is None else rows if used is None else rows[used]
    if chosen is None:
        return None
    kept = np.unique(chosen)
    return None if 2 * len(kept) >= size else kept


def _same(one: NDArray[np.int64] | None, other: NDArray[np.int64] | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def _arrays(batch: pa.RecordBatch) -> tuple[NDArray[np.int64], TokenIds, TextIds]:
    """Return the offsets of the ids of each text, the last end included, the ids, and the numbers of the texts."""
    ids = batch.column("ids")
    offsets: NDArray[np.int64] = np.frombuffer(ids.buffers()[1], np.int64, len(ids) + 1)
    return offsets, ids.values.to_numpy(), batch.column("text_id").to_numpy()


def _write(texts: TextColumn, prompts: str | TextColumn, tokenization: Tokenization, name: str, folder: Path) -> None:
    each = repeat(prompts, len(texts)) if isinstance(prompts, str) else prompts
    portions = _portions(zip(each, texts, strict=True))
    bar = tqdm(total=len(texts), desc=f"tokenising {name}", delay=SECONDS_WITHOUT_BAR, disable=None, leave=False)
    with bar, pa.ipc.new_file(str(folder / FILE), _schema(tokenization)) as writer:
        for batch in _tokenized_ahead(portions, tokenization):
            writer.write_batch(batch)
            bar.update(batch.num_rows)


def _schema(tokenization: Tokenization) -> pa.Schema:
    """The ids of each text behind its prompt, in two bytes where they fit, and the number of the text alone."""
    number = pa.uint16() if tokenization.largest_id < 2**16 else pa.int32()
    return pa.schema([("ids", pa.large_list(number)), ("text_id", pa.int64())])


def _portions(rows: Iterable[tuple[str, str]]) -> Iterator[Portion]:
    portion: Portion = []
    characters = 0
    for prompt, text in rows:
        portion.append((prompt, text))
        characters += len(text)
        if characters >= PORTION:
            yield portion
            portion, characters = [], 0
    if portion:
        yield portion


def _tokenized_ahead(portions: Iterable[Portion], tokenization: Tokenization) -> Iterator[pa.RecordBatch]:
    """Yield the tokens of each portion, in their order, while all cores are at those that come next."""
    # Threads of our own, because those of tokenizers are off for the sake of workers that are forked later.
    cores = os.cpu_count() or 1
    tokenization.token_ids(["a"])  # sets the length to cut at, which threads must not do at the same time
    ahead: deque[Future[pa.RecordBatch]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for portion in portions:
            ahead.append(pool.submit(_tokenized, portion, tokenization))
            if len(ahead) > cores:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _tokenized(portion: Sequence[tuple[str, str]], tokenization: Tokenization) -> pa.RecordBatch:
    ids = tokenization.token_ids([prompt + text for prompt, text in portion])
    schema = _schema(tokenization)
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    lists = pa.LargeListArray.from_arrays(offsets, pa.array(np.concatenate(ids), schema.field("ids").type.value_type))
    return pa.record_batch([lists, text_ids(text for _, text in portion)], schema=schema)
