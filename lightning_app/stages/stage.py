"""A stage: one result, all that determines it, and how it is made."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, runtime_checkable

from datamodules import TaskData
from modules import MergeMethod, Search
from modules.merging.describe import describe

BESIDE_KEY = MappingProxyType({"beside_key": True})
"""Metadata of a dataclass field that is no part of a stage's key, because it changes no result."""

LIBRARIES = ("torch", "transformers", "tokenizers", "sentence-transformers")
"""What every stage computes with."""


@runtime_checkable
class HasKeyContent(Protocol):
    """A value that says itself what a key must hold of it."""

    def key_content(self) -> Any:
        """Return all that changes results, as JSON or as values with a `key_content`."""
        ...


class ResultFolders(Protocol):
    """The folders of the results of stages: a `StageGraph`."""

    score_cache: Path

    def folder(self, stage: "Stage") -> Path:
        """Return the folder of a stage that has run."""
        ...


@dataclass(frozen=True)
class Stage(ABC):
    """A result of a run, which is computed once.

    A subclass is a frozen dataclass whose fields are all that its `run` reads: settings, rows, models. Every field is
    part of the key, unless its metadata are `BESIDE_KEY`, and so is what is in them, so that a new setting cannot be
    forgotten. A stage in a field is an input, and is run before.

    Attributes:
        kind: the sort of result: ``model``, ``position``, ``scores``. The first part of the folder's name.
        version: of the class, a part of the key: raise it when a change of the code changes results.
        libraries: distributions whose versions are part of the key.

    Args:
        name: of the result on screen, and in its folder's name.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = LIBRARIES

    name: str = field(metadata=BESIDE_KEY)

    @abstractmethod
    def run(self, folder: Path, graph: "ResultFolders") -> None:
        """Write the result into a folder; every process calls it.

        Args:
            folder: of this stage. One that an interrupted run has left is passed again as it was left.
            graph: finds the folders of the inputs.
        """

    @property
    def title(self) -> str:
        """The stage as the screen calls it."""
        return f"{self.kind} {self.name}"

    @property
    def texts(self) -> int:
        """About how many texts pass through a model, those trained on counted as often as they cost."""
        return 0

    @cached_property
    def inputs(self) -> tuple["Stage", ...]:
        """The stages in its fields, each once, in the order of the fields."""
        found = {stage.key: stage for entry in fields(self) for stage in _stages_in(getattr(self, entry.name))}
        return tuple(found.values())

    @cached_property
    def content(self) -> Any:
        """The fields that are part of the key, as JSON."""
        return {entry.name: content_of(getattr(self, entry.name)) for entry in _counted(self)}

    @cached_property
    def key(self) -> str:
        """A hash of kind, version, libraries and content."""
        stamp = [self.kind, self.version, {library: _version(library) for library in self.libraries}]
        return hashlib.sha256(json.dumps([stamp, self.content], sort_keys=True).encode()).hexdigest()[:12]


def content_of(value: Any) -> Any:
    """Return what a key holds of a value, as JSON.

    Raises:
        TypeError: the value is of a type of which that is not known.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Stage):
        return {"stage": value.key}
    if isinstance(value, TaskData):
        return value.fingerprint()
    if isinstance(value, HasKeyContent):
        return content_of(value.key_content())
    if isinstance(value, MergeMethod | Search):
        return describe(value)
    if isinstance(value, Mapping):
        return {str(key): content_of(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [content_of(part) for part in value]
    if is_dataclass(value):
        return {entry.name: content_of(getattr(value, entry.name)) for entry in _counted(value)}
    raise TypeError(f"a stage's field of type {type(value).__name__} has no form for a key")


@cache
def _version(library: str) -> str:
    """Return the version of a library, which takes a search through all that is installed."""
    return version(library)


def _counted(value: Any) -> Iterator[Any]:
    return (entry for entry in fields(value) if not entry.metadata.get("beside_key"))


def _stages_in(value: Any) -> Iterator[Stage]:
    """The stages in a value; those that these are made of are their own affair."""
    if isinstance(value, Stage):
        yield value
    elif isinstance(value, TaskData):
        return
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _stages_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _stages_in(part)
    elif is_dataclass(value):
        for entry in fields(value):
            yield from _stages_in(getattr(value, entry.name))
