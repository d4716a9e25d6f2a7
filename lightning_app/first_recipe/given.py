"""Data files and models that a command line gives, told apart, named, and read."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datamodules import DataSource, TaskData, load_task
from datamodules.sources.columns import RENAME, listed
from datamodules.sources.file_rows import suffix_of
from datamodules.sources.row_blocks import BadRow
from datamodules.sources.task_loading import find_rows
from lightning_app.recipe.named_merges import GROUPS, MERGES
from lightning_app.unique_names import numbered, short_name
from modules import UserError
from modules.checkpoints.base_model import MARKS, looks_like_hub_name

RANGES: list[tuple[float, float] | None] = [None, (0, 5), (-1, 1), (0, 10), (0, 100)]
"""Ranges of scores that are tried in turn; None: 0 to 1."""

OUT_OF_RANGE = re.compile(r"no \w+ in \S+ to \S+")
"""The reason of a bad row that another range may mend."""

TAKEN = (*GROUPS, *MERGES, "defaults")
"""Names that mean something else in a recipe."""


@dataclass(frozen=True)
class GivenData:
    """A data set that was given.

    Args:
        source: as the recipe describes it.
        rows: all of them.
    """

    source: DataSource
    rows: TaskData


def is_model(given: str) -> bool:
    """Return whether a word of the command line names a model: a folder that has a model's files, or a hub name."""
    path = Path(given).expanduser()
    if path.is_dir():
        return any((path / mark).is_file() for mark in MARKS)
    return not path.exists() and looks_like_hub_name(given) and not suffix_of(given)


def named(given: Sequence[str]) -> dict[str, str]:
    """Return what was given by the name that it has in a recipe: that of the file or folder, each name once."""
    stems = [short_name(each) if is_model(each) else DataSource(each).name for each in given]
    names = [re.sub(r"\W+", "_", stem).strip("_") for stem in stems]
    keys = [name if name[:1].isalpha() else f"set_{name}" for name in names]
    return dict(zip(numbered(keys, TAKEN), given, strict=True))


def read_given(name: str, source: str, columns: Mapping[str, str]) -> GivenData:
    """Read a data set, with the range of scores that it turns out to have.

    Args:
        name: of the data set.
        source: a file, or a folder of files.
        columns: expected column -> column of the source, for columns that are named otherwise.

    Raises:
        UserError: it cannot be read.
    """
    described = DataSource(source, columns=dict(columns) or None)
    first: BadRow | None = None
    for span in RANGES:
        try:
            with_range = replace(described, score_range=span)
            return GivenData(with_range, replace(load_task(with_range), name=name))
        except BadRow as error:
            if not OUT_OF_RANGE.fullmatch(error.reason):
                raise
            first = first or error
        except UserError as error:
            raise UserError(str(error).replace(RENAME, "say which is which: --columns anchor=COLUMN ...")) from error
    assert first is not None
    raise first


def read_columns(words: Sequence[str], files: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return file -> expected column -> column of the file, for columns that are named otherwise.

    Args:
        words: of the form ``anchor=question``; each counts for the files that have such a column.
        files: the data files.

    Raises:
        UserError: a word is of another form, or no file has its column.
    """
    found: dict[str, dict[str, str]] = {file: {} for file in files}
    present = {file: find_rows(DataSource(file)).names(skip_bad=False) for file in files} if words else {}
    for word in words:
        name, _, column = word.partition("=")
        if not name or not column:
            raise UserError(f"--columns: '{word}' is not of the form EXPECTED=COLUMN, anchor=question for example")
        having = [file for file, columns in present.items() if column in columns]
        if not having:
            known = listed(set().union(*present.values()))
            raise UserError(f"--columns: no file has a column '{column}'; there are {known}")
        for file in having:
            found[file][name] = column
    return found
