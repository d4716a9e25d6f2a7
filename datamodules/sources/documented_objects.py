"""The documented objects of a Python environment: docstrings, read with ``ast``, and the language reference.

Nothing is imported: docstrings of the standard library and of ``PACKAGES`` are taken from their source files, the
language reference from ``pydoc_data.topics``. What is found depends only on the installed versions.
"""

import ast
import gc
import hashlib
import os
import re
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

PACKAGES = ("huggingface_hub", "networkx", "numpy")
BLOCKS = 48
SUMMARY_WORDS = 3
BODY_WORDS = 40
SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "testing", "idlelib", "lib2to3"}
MARKUP = re.compile(r"^\s*(>>>|\.\.\. |[-=*~^#]{3,}\s*$)")
OBJECTS = ("module", "class", "function")


@dataclass(frozen=True)
class Entry:
    """A documented object: the package, module and class it lives in, and its docstring in two parts.

    What it is, is one of ``OBJECTS``; empty for a topic of the language reference.
    """

    package: str
    module: str
    cls: str
    summary: str
    body: str
    what: str = ""

    @property
    def block(self) -> int:
        """Number of the block that its module is hashed into."""
        return int(hashlib.sha256(self.module.encode()).hexdigest(), 16) % BLOCKS


@cache
def documented_objects() -> list[Entry]:
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
    """Turn garbage collection off: it takes half the time of making millions of syntax nodes, which have no cycles."""
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
        yield Entry(package, module, cls, summary, body, _what(node))
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                inner = child.name if isinstance(child, ast.ClassDef) else cls
                yield from _documented(child, package, module, inner)


def _what(node: ast.AST) -> str:
    """Return which of ``OBJECTS`` a node defines."""
    if isinstance(node, ast.Module):
        return "module"
    return "class" if isinstance(node, ast.ClassDef) else "function"


def _summary_and_body(docstring: str) -> tuple[str, str]:
    """First paragraph and the next `BODY_WORDS` words, without markup; a body of under eight words counts as none."""
    summary, _, rest = docstring.strip().partition("\n\n")
    body = _plain(rest)
    return _plain(summary), body if len(body.split()) >= 8 else ""


def _plain(text: str) -> str:
    words = [word for line in text.splitlines() if not MARKUP.match(line) for word in line.split()]
    return " ".join(words[:BODY_WORDS])
