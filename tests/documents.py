"""The documents of the project, taken apart: headings, links, code, commands."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]

DOCUMENTS = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "tests/parity/README.md")
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
]

OTHER_LANGUAGES = {"", "text", "bibtex", "json"}
"""Languages of blocks that are neither run nor read."""

PROGRAMS = re.compile(
    r"([A-Z_]+=\S+ )*"
    r"(\S*python3?|lightning_app|make|pip|git|cd|export|pre-commit|tensorboard|(benchmarks|tests)/\S+\.sh)( |$)"
)
"""The beginning of a line that is a command."""


@dataclass(frozen=True)
class Block:
    """A block of code.

    Args:
        document: that it stands in.
        line: of the document, counted from 1.
        language: as its fence says; ``sh`` for an indented block of commands, empty for any other.
        text: the code.
    """

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        """Return the place."""
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str:
        """The name of the file that the block is, which its first line has as a comment; empty: it has none."""
        found = re.match(r"# ([\w/.-]+\.(py|yaml|yml))\b.*\n", self.text)
        return found[1] if found else ""


@cache
def tokens(document: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(document.read_text(encoding="utf-8"))


@cache
def inline(document: Path) -> list[Token]:
    """The parts of running text: words, links, pieces of code."""
    return [child for token in tokens(document) if token.type == "inline" for child in token.children or []]


def blocks(*languages: str) -> list[Block]:
    """All blocks of code in some languages, in all documents."""
    found = []
    for document in DOCUMENTS:
        for token in tokens(document):
            if token.type in ("fence", "code_block") and token.map:
                found.append(Block(document, token.map[0] + 1, _language(token), token.content))
    return [block for block in found if block.language in languages]


def _language(token: Token) -> str:
    if token.type == "fence":
        language = token.info.strip()
        return "sh" if language in ("bash", "console", "shell") else language
    return "sh" if any(map(PROGRAMS.match, token.content.splitlines())) else ""


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command of every block, with its place, and the commands of the application in running text."""
    for block in blocks("sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield str(block), words
    for document in DOCUMENTS:
        for text in code_in_text(document):
            if text.startswith("python -m lightning_app ") and "VERB" not in text:
                yield document.name, shlex.split(text)


def code_in_text(document: Path) -> list[str]:
    """The pieces of code in running text."""
    return [token.content for token in inline(document) if token.type == "code_inline"]


def links(document: Path) -> list[str]:
    """The targets of all links and pictures."""
    found = [token.attrs.get("href") or token.attrs.get("src") for token in inline(document)]
    return [str(target) for target in found if target]


@cache
def anchors(document: Path) -> set[str]:
    """The anchors of all headings, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found = set()
    for heading, text in zip(tokens(document), tokens(document)[1:], strict=False):
        if heading.type == "heading_open":
            words = "".join(child.content for child in text.children or [])
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found
