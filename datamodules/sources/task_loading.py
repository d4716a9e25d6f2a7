"""From the description of a data set to its checked rows."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from datamodules.row_cache import prepared
from datamodules.sources.columns import SCHEMAS, listed
from datamodules.sources.data_source import PYTHON_DOCS, DataSource
from datamodules.sources.dataset_rows import hub_rows, saved_rows
from datamodules.sources.file_rows import KNOWN, FileRows, folder_rows, suffix_of
from datamodules.sources.prepared_rows import map_rows, write_rows
from datamodules.sources.python_docs import load_python_docs
from datamodules.sources.row_blocks import RowSource
from datamodules.task_data import TaskData, resolve_loss
from modules.errors import UserError
from modules.losses.task_batch import Kind, LossConfig

FORMAT = 1
"""Raised when the same source gives other rows, or they are written otherwise: what was prepared is not used then."""

BEYOND_LIMIT = "limit"


def load_task(source: DataSource, loss: LossConfig | None = None) -> TaskData:
    """Return every row of a data set, read and checked the first time, memory-mapped from a cache from then on.

    Args:
        source: the description; its own loss wins.
        loss: the default loss; None: ``LossConfig()``.

    Raises:
        UserError: for whatever is wrong with the description or a row.
    """
    source.check()
    task = _python_docs_task(source) if source.source == PYTHON_DOCS else _task_of_rows(source)
    task = replace(task, loss=resolve_loss(source.name, task.kind, source.loss or loss or LossConfig()))
    if source.limit is None or source.limit >= len(task):
        return task
    drawn = task.subset(sorted(random.Random(0).sample(range(len(task)), source.limit)))
    return replace(drawn, left_out=task.left_out | {BEYOND_LIMIT: len(task) - len(drawn)})


def _python_docs_task(source: DataSource) -> TaskData:
    _refuse(source, "config", "revision", "columns", "min_score", "score_range")
    if source.task is None:
        raise UserError(f"{source.name}: python_docs needs 'task': retrieval, relatedness or classification")
    texts, target, groups = load_python_docs(source.task)
    kind: Kind = "labelled" if len(texts) == 1 else "pairs" if target is None else "graded"
    prompts = _prompts(source, SCHEMAS[kind][0])
    places = list(range(1, len(groups) + 1))
    return TaskData(source.name, kind, texts, prompts, target, groups, LossConfig(), places)  # type: ignore[arg-type]


def _task_of_rows(source: DataSource) -> TaskData:
    rows = find_rows(source)
    folder = prepared(_key(source, rows.identity()), partial(write_rows, source=source, rows=rows))
    found = map_rows(folder)
    prompts = _prompts(source, found.names)
    return TaskData(
        source.name,
        found.kind,
        found.texts,
        prompts,
        found.target,
        found.groups,
        LossConfig(),
        found.places,
        found.left_out,
        found.notes,
        found.instructions,
    )


def _key(source: DataSource, identity: str) -> str:
    """The hash of all that the prepared rows depend on."""
    where = [source.source, identity, source.config, source.split, source.revision]
    how = [source.columns, source.min_score, source.score_range, source.on_bad_row]
    content = json.dumps([FORMAT, *where, *how], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def find_rows(source: DataSource) -> RowSource:
    """Return what a description means: a file, a folder of files, a data set on disk, or a hub data set.

    Raises:
        UserError: nothing of that name is found, the format is unknown, or an option is not for it.
    """
    name, path = source.source, Path(source.source).expanduser()
    if path.is_file():
        _refuse(source, "task", "config", "revision")
        if not suffix_of(path.name):
            raise UserError(f"{name}: unknown format; give a file that ends in {KNOWN}")
        return FileRows([path])
    if path.is_dir():
        _refuse(source, "task", "config", "revision")
        saved = any((path / file).is_file() for file in ("dataset_dict.json", "state.json"))
        return saved_rows(path, source.split) if saved else folder_rows(path, source.split)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not suffix_of(name):
        if source.task is not None:
            raise UserError(f"{source.name}: task is for python_docs; write config: {source.task} for a hub data set")
        return hub_rows(name, source.config, source.split, source.revision, source.limit)
    raise UserError(
        f"data source {name!r}: no such file (looked for {path.absolute()}) and not a hub data set org/name; "
        "give python_docs, a data file, a folder of data files or a hub name"
    )


def _refuse(source: DataSource, *options: str) -> None:
    """Refuse options that would do nothing.

    Raises:
        UserError: one is given.
    """
    for option in options:
        if getattr(source, option) is not None:
            raise UserError(f"{source.name}: {option} is not for {source.source}; remove it")


def _prompts(source: DataSource, text_columns: Sequence[str]) -> list[str | None]:
    """The data set's own prefix of each text column; None: it has none."""
    prompts = source.prompts or {}
    unknown = prompts.keys() - {*text_columns, "negative"}
    if unknown:
        raise UserError(f"{source.name}: prompts names {listed(unknown)}; the text columns are {listed(text_columns)}")
    negative = prompts.get("negative", prompts.get("positive"))
    return [prompts.get(column, negative if column.startswith("negative") else None) for column in text_columns]
