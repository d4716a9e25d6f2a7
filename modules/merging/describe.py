"""Merge methods and searches in plain values, for keys, records and checkpoints."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from modules.merging.merge_method import MergeMethod

if TYPE_CHECKING:  # merging files does not wait for the searches
    from modules.search import Search


def describe(part: MergeMethod | Search) -> dict[str, Any]:
    """Return the class and the arguments of a method or a search, whose attributes have the arguments' names."""
    names = [name for name in inspect.signature(type(part)).parameters if hasattr(part, name)]
    values = {name: getattr(part, name) for name in names}
    arguments = {name: describe(v) if isinstance(v, MergeMethod) else v for name, v in values.items()}
    package = type(part).__module__.rpartition(".")[0]
    return {"class": f"{package}.{type(part).__name__}", "arguments": arguments}


def in_words(description: dict[str, Any]) -> str:
    """Return a description as a call: ``Dare(method=Slerp(order=None), density=0.5, seed=0)``."""
    arguments = description["arguments"].items()
    called = ", ".join(f"{name}={in_words(v) if isinstance(v, dict) else v}" for name, v in arguments)
    return f"{description['class'].rpartition('.')[2]}({called})"
