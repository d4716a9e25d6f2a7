"""A model card as its readers have it: the hub, a person, and the person's Python."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard


def read_card(folder: Path) -> ModelCard:
    """The card of a model folder, which names no path of this machine and whose Python runs as it says."""
    card = ModelCard.load(folder / "README.md")
    assert str(folder.resolve().parent) not in str(card) and "/tmp/" not in str(card)
    [code] = re.findall(r"## Usage\n\n```python\n(.*?)```", card.text, re.DOTALL)
    made: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(folder)), made)
    sizes = [made[name].shape[0] for name in ("embeddings", "queries", "documents") if name in made]
    assert sizes in ([2], [1, 2])
    return card


def cells(card: ModelCard, first: str) -> list[list[str]]:
    """The rows of a card's tables that begin with a cell."""
    rows = [line for line in card.text.splitlines() if line.startswith(f"| {first} ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
