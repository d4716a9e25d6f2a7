"""The texts that an MTEB task asks a model to embed, and what they share with training rows."""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.decontamination import Overlap, TrainingTexts
from datamodules.task_data import TaskData

if TYPE_CHECKING:
    from mteb import AbsTask


def overlaps(tasks: "Sequence[AbsTask]", training: Sequence[TaskData]) -> dict[str, Overlap]:
    """Return what each loaded task shares with the rows of some data sets, by the task's name."""
    seen = TrainingTexts(text for data in training for column in data.texts for text in column)
    return {task.metadata.name: seen.overlap(task_texts(task)) for task in tasks}


def count_texts(tasks: "Sequence[AbsTask]") -> int:
    """Return how many distinct texts loaded tasks have together; eight bytes of each are held."""
    hashes = (hash(texts) for task in tasks for texts in task_texts(task))
    return len(np.unique(np.fromiter(hashes, dtype=np.int64)))


def task_texts(task: "AbsTask") -> Iterator[tuple[str, ...]]:
    """Yield every text of the splits on which a loaded task is scored; a document with and without its title."""
    assert task.dataset is not None
    columns = list(task._get_content_columns())
    for subset in task.hf_subsets:
        splits: Any = task.dataset.get(subset, task.dataset)  # a task with one subset may leave the level out
        for split in task.eval_splits:
            rows = splits[split]
            if isinstance(rows, dict):  # retrieval
                yield from ((text,) for text in _strings(rows["queries"]["text"]))
                yield from _documents(rows["corpus"])
            else:
                present = [column for column in columns if column in rows.column_names] or rows.column_names
                yield from ((text,) for column in present for text in _strings(rows[column]))


def _documents(corpus: Any) -> Iterator[tuple[str, ...]]:
    titles = corpus["title"] if "title" in corpus.column_names else repeat("")
    for title, text in zip(titles, corpus["text"], strict=False):
        yield (text, f"{title} {text}") if title else (text,)


def _strings(cells: Any) -> Iterator[str]:
    """Yield the strings in a column whose cells may be lists; a conversation's turns are no strings."""
    for cell in cells:
        if isinstance(cell, str):
            yield cell
        elif isinstance(cell, list):
            yield from _strings(cell)
