"""Two data sets that every Python environment carries: the documentation of its own packages.

Docstrings of the standard library and of ``PACKAGES`` are read with ``ast`` (nothing is imported), the language
reference from ``pydoc_data.topics``. Two tasks come out, with no text in common:

- ``retrieval``: the summary of an object that has a longer docstring (anchor) and the rest of it (positive);
- ``relatedness``: summaries of two objects with one-line docstrings, graded by how near the objects live
  (see ``nearness``).

Modules are hashed into ``BLOCKS`` blocks. A block is the group of its rows: every sixth block is for testing and never
returned for training. Equal texts are removed before anything else, so blocks share none. The result depends only
on the installed versions of the packages.
"""

import ast
import gc
import hashlib
import os
import random
import re
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics
from typing import Literal, NamedTuple

from modules.errors import UserError

PACKAGES = ("huggingface_hub", "networkx", "numpy")
BLOCKS = 48
TEST_EVERY = 6
GRADES = (1.0, 0.75, 0.5, 0.25, 0.0)
SUMMARY_WORDS = 3
BODY_WORDS = 40
SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "testing", "idlelib", "lib2to3"}
MARKUP = re.compile(r"^\s*(>>>|\.\.\. |[-=*~^#]{3,}\s*$)")


class Rows(NamedTuple):
    """Columns of text, the score of every row (None for pairs) and the block of every row."""

    texts: list[list[str]]
    target: list[float] | None
    groups: list[str]


@dataclass(frozen=True)
class Entry:
    """A documented object: the package, module and class it lives in, and its docstring in two parts."""

    package: str
    module: str
    cls: str
    summary: str
    body: str

    @property
    def block(self) -> int:
        """Number of the block that its module is hashed into."""
        return int(hashlib.sha256(self.module.encode()).hexdigest(), 16) % BLOCKS


def load_python_docs(task: str, split: Literal["train", "test"] = "train") -> Rows:
    """Rows of one of the two tasks; the packages are read once in a process.

    Raises:
        UserError: if the task is neither ``retrieval`` nor ``relatedness``.
    """
    makers = {"retrieval": _retrieval, "relatedness": _relatedness}
    if task not in makers:
        raise UserError(f"python_docs has no task {task!r}: set 'task' to retrieval or relatedness")
    return makers[task](split)


def test_retrieval(
    max_queries: int = 200, max_documents: int = 200
) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    """Held-out summaries as queries against held-out bodies, their own among them: queries, corpus, qrels."""
    (summaries, bodies), _, _ = _retrieval("test")
    queries = {f"q{row}": text for row, text in enumerate(summaries[:max_queries])}
    corpus = {f"d{row}": text for row, text in enumerate(bodies[: max(max_queries, max_documents)])}
    return queries, corpus, {f"q{row}": {f"d{row}": 1} for row in range(len(queries))}


def test_relatedness(max_pairs: int = 240) -> tuple[list[str], list[str], list[float]]:
    """Held-out pairs: first sentences, second sentences and their scores in [0, 1]."""
    (first, second), scores, _ = _relatedness("test")
    assert scores is not None
    return first[:max_pairs], second[:max_pairs], scores[:max_pairs]


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
    return [entry for entry in _all_entries() if (entry.block % TEST_EVERY == 0) == (split == "test")]


@cache
def _all_entries() -> list[Entry]:
    """Every documented object that has a summary and whose texts were not seen before, in a fixed order."""
    seen: set[str] = set()
    entries = []
    with _no_collection():
        found = [*_language_reference(), *_docstrings()]
    for entry in found:
        texts = {text.casefold() for text in (entry.summary, entry.body) if text}
        if len(entry.summary.split()) >= SUMMARY_WORDS and not texts & seen:
            seen |= texts
            entries.append(entry)
    return entries


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection: it takes half the time of making millions of syntax nodes, which have no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _language_reference() -> Iterator[Entry]:
    for topic, text in sorted(topics.items()):
        summary, body = _summary_and_body(text)
        if body:
            yield Entry("python", f"pydoc_data.topics.{topic}", "", summary, body)


def _docstrings() -> Iterator[Entry]:
    yield from _package_docstrings("python", Path(sysconfig.get_path("stdlib")), "")
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            yield from _package_docstrings(package, Path(spec.origin).parent, package)


def _package_docstrings(package: str, root: Path, prefix: str) -> Iterator[Entry]:
    """Entries of the Python files below ``root``, whose modules are named ``prefix.folder.file``."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
        inside = [part for part in (prefix, *Path(folder).relative_to(root).parts) if part]
        for name in sorted(file for file in files if file.endswith(".py")):
            source = Path(folder, name).read_text("utf-8", errors="ignore")
            if '"""' not in source:  # parsing is the slow part
                continue
            try:
                tree = ast.parse(source)
            except SyntaxError:  # templates and files of another Python version
                continue
            yield from _documented(tree, package, ".".join([*inside, name.removesuffix(".py")]), "")


def _documented(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, package: str, module: str, cls: str
) -> Iterator[Entry]:
    """The node itself, then its classes and functions; what is defined inside functions is left out."""
    summary, body = _summary_and_body(ast.get_docstring(node) or "")
    if summary:
        yield Entry(package, module, cls, summary, body)
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                inner = child.name if isinstance(child, ast.ClassDef) else cls
                yield from _documented(child, package, module, inner)


def _summary_and_body(docstring: str) -> tuple[str, str]:
    """First paragraph and the next `BODY_WORDS` words, without markup; a body of under eight words counts as none."""
    summary, _, rest = docstring.strip().partition("\n\n")
    body = _plain(rest)
    return _plain(summary), body if len(body.split()) >= 8 else ""


def _plain(text: str) -> str:
    words = [word for line in text.splitlines() if not MARKUP.match(line) for word in line.split()]
    return " ".join(words[:BODY_WORDS])
