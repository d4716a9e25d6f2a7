"""Three data sets that every Python environment carries: the documentation of its own packages.

Docstrings of the standard library and of ``PACKAGES`` are read with ``ast`` (nothing is imported), the language
reference from ``pydoc_data.topics``. Three tasks come out:

- ``retrieval``: the summary of an object that has a longer docstring (anchor) and the rest of it (positive);
- ``relatedness``: summaries of two objects with one-line docstrings, graded by how near the objects live
  (see ``nearness``); no text is in retrieval, too;
- ``classification``: the summary of any object, labelled by what the object is (see ``OBJECTS``).

Modules are hashed into ``BLOCKS`` blocks. A block is the group of its rows: every sixth block is for testing and never
returned for training. Equal texts are removed before anything else, so blocks share none. The result depends only
on the installed versions of the packages.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal, NamedTuple

from datamodules.sources.documented_objects import OBJECTS, Entry, documented_objects
from modules.errors import UserError

TEST_EVERY = 6
GRADES = (1.0, 0.75, 0.5, 0.25, 0.0)


class Rows(NamedTuple):
    """Columns of text, the score or the number of the label of every row (None for pairs), and its block."""

    texts: list[list[str]]
    target: Sequence[float] | None
    groups: list[str]


def load_python_docs(task: str, split: Literal["train", "test"] = "train") -> Rows:
    """Rows of one of the tasks; the packages are read once in a process.

    Raises:
        UserError: there is no such task.
    """
    makers = {"retrieval": _retrieval, "relatedness": _relatedness, "classification": _classification}
    if task not in makers:
        raise UserError(f"python_docs has no task {task!r}: set 'task' to {', '.join(makers)}")
    return makers[task](split)


def test_retrieval(
    max_queries: int = 300, max_documents: int = 300
) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    """Held-out summaries as queries against held-out bodies, their own among them: queries, corpus, qrels."""
    (summaries, bodies), _, _ = _retrieval("test")
    queries = {f"q{row}": text for row, text in enumerate(summaries[:max_queries])}
    corpus = {f"d{row}": text for row, text in enumerate(bodies[: max(max_queries, max_documents)])}
    return queries, corpus, {f"q{row}": {f"d{row}": 1} for row in range(len(queries))}


def test_relatedness(max_pairs: int = 300) -> tuple[list[str], list[str], list[float]]:
    """Held-out pairs: first sentences, second sentences and their scores in [0, 1]."""
    (first, second), scores, _ = _relatedness("test")
    assert scores is not None
    return first[:max_pairs], second[:max_pairs], list(scores[:max_pairs])


def test_classification(per_label: int = 200, examples: int = 24) -> dict[str, tuple[list[str], list[int]]]:
    """Held-out summaries and their labels, at most so many of a label: the first for classifiers to learn from.

    Args:
        per_label: texts of a label, those for classifiers included.
        examples: of these, how many are for classifiers to learn from, in ``train``; the others are in ``test``.
    """
    (texts,), labels, _ = _classification("test")
    assert labels is not None
    parts: dict[str, tuple[list[str], list[int]]] = {"train": ([], []), "test": ([], [])}
    for label in range(len(OBJECTS)):
        of_label = [text for text, own in zip(texts, labels, strict=True) if own == label]
        for part, chosen in (("train", of_label[:examples]), ("test", of_label[examples:per_label])):
            parts[part][0].extend(chosen)
            parts[part][1].extend([label] * len(chosen))
    return parts


def nearness(a: Entry, b: Entry) -> float:
    """Return how near two objects live.

    1.0 in the same class (or both at the top level of one module), 0.75 in the same module, 0.5 in the same folder of
    modules (``numpy.linalg``), 0.25 in the same distribution, 0.0 otherwise. The modules at the top of the standard
    library have no folder in common.
    """
    if a.module == b.module:
        return 1.0 if a.cls == b.cls else 0.75
    folder = a.module.rpartition(".")[0]
    if folder and folder == b.module.rpartition(".")[0]:
        return 0.5
    return 0.25 if a.package == b.package else 0.0


@cache
def _retrieval(split: str) -> Rows:
    entries = [entry for entry in _entries(split) if entry.body]
    random.Random(0).shuffle(entries)
    texts = [[entry.summary for entry in entries], [entry.body for entry in entries]]
    return Rows(texts, None, [f"block-{entry.block:02}" for entry in entries])


@cache
def _relatedness(split: str) -> Rows:
    blocks: dict[int, list[Entry]] = defaultdict(list)
    for entry in _entries(split):
        if not entry.body:
            blocks[entry.block].append(entry)
    rows = [(a, b, score) for block in sorted(blocks) for a, b, score in _graded_pairs(blocks[block], seed=block)]
    random.Random(0).shuffle(rows)
    texts = [[a.summary for a, _, _ in rows], [b.summary for _, b, _ in rows]]
    return Rows(texts, [score for _, _, score in rows], [f"block-{a.block:02}" for a, _, _ in rows])


@cache
def _classification(split: str) -> Rows:
    entries = [entry for entry in _entries(split) if entry.what]
    random.Random(0).shuffle(entries)
    labels = [OBJECTS.index(entry.what) for entry in entries]
    return Rows([[entry.summary for entry in entries]], labels, [f"block-{entry.block:02}" for entry in entries])


def _graded_pairs(entries: list[Entry], seed: int) -> Iterator[tuple[Entry, Entry, float]]:
    """Pair the entries of a block, each used once, taking the grades in turn as long as a partner is left."""
    waiting = list(entries)
    random.Random(seed).shuffle(waiting)
    turn = 0
    while waiting:
        entry = waiting.pop()
        wanted = GRADES[turn % len(GRADES)]
        partner = next((other for other in waiting if nearness(entry, other) == wanted), None)
        turn += 1
        if partner is not None:
            waiting.remove(partner)
            yield entry, partner, wanted


def _entries(split: str) -> list[Entry]:
    return [entry for entry in documented_objects() if (entry.block % TEST_EVERY == 0) == (split == "test")]
