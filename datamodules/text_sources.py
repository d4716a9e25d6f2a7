"""From the description of a data set in a recipe to its checked rows."""

import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.python_docs import load_python_docs
from datamodules.row_files import Row, read_rows
from datamodules.task_data import Kind, TaskData, resolve_loss
from modules.errors import UserError
from modules.task_batch import LossConfig

FILE_SUFFIX = re.compile(r"\.(jsonl|jsonl\.gz|csv|parquet)$")
NEGATIVE = re.compile(r"negative(_\d+)?$")
SCHEMAS: dict[Kind, tuple[list[str], str | None]] = {
    "pairs": (["anchor", "positive"], None),
    "graded": (["sentence1", "sentence2"], "score"),
    "labelled": (["text"], "label"),
}
"""Kind of rows -> text columns and target column; pairs may also have negative or negative_1, negative_2, ..."""


@dataclass(frozen=True)
class DataSource:
    """Where the rows of one data set come from, and how they are used.

    Args:
        source: ``python_docs``, the path of a .jsonl, .jsonl.gz, .csv or .parquet file, or a hub name ``org/name``.
        task: of python_docs: ``retrieval`` or ``relatedness``; of a hub data set: its config.
        split: of a hub data set.
        columns: expected column -> column of the source, for columns that are named otherwise.
        prompts: text column -> prefix; negatives take that of ``positive`` if none is given.
        limit: keep this many rows, drawn with a fixed seed.
        min_score: keep the rows whose ``score`` is at least this.
        share: relative number of batches in joint training; None: in proportion to the rows.
        loss: None: the loss of the recipe.
        name: what the data set is called; empty: derived from the source.
    """

    source: str
    task: str | None = None
    split: str = "train"
    columns: dict[str, str] | None = None
    prompts: dict[str, str] | None = None
    limit: int | None = None
    min_score: float | None = None
    share: float | None = None
    loss: LossConfig | None = None
    name: str = ""

    def __post_init__(self) -> None:
        """Derive the name: task of python_docs, file (its folder for ``train``), or last part of a hub name."""
        if not self.name:
            object.__setattr__(self, "name", self._derived_name())

    def _derived_name(self) -> str:
        if self.source == "python_docs":
            return self.task or self.source
        path = Path(FILE_SUFFIX.sub("", self.source))
        if FILE_SUFFIX.search(self.source):
            return path.parent.name if path.name == "train" and path.parent.name else path.name
        return f"{path.name}-{self.task}" if self.task else path.name


def load_task(source: DataSource, loss: LossConfig | None = None) -> TaskData:
    """Read and check every row of a data set.

    Args:
        source: the description; its own loss wins.
        loss: the default loss; None: ``LossConfig()``.

    Raises:
        UserError: for whatever is wrong with the description or a row; none is skipped.
    """
    if source.limit is not None and source.limit < 1:
        raise UserError(f"{source.name}: limit is {source.limit}; it must be at least 1")
    if source.source == "python_docs":
        task = _python_docs_task(source)
    else:
        task = _task_of_rows(source, read_rows(source.source, source.task, source.split))
    task = TaskData(
        source.name,
        task.kind,
        task.texts,
        task.prompts,
        task.target,
        task.groups,
        resolve_loss(source.name, task.kind, source.loss or loss or LossConfig()),
    )
    if source.limit is None or source.limit >= len(task):
        return task
    return task.subset(sorted(random.Random(0).sample(range(len(task)), source.limit)))


def _python_docs_task(source: DataSource) -> TaskData:
    if source.task is None:
        raise UserError(f"{source.name}: python_docs needs 'task': retrieval or relatedness")
    texts, target, groups = load_python_docs(source.task)
    kind: Kind = "pairs" if target is None else "graded"
    prompts = _prompts(source, SCHEMAS[kind][0])
    return TaskData(source.name, kind, texts, prompts, target, groups, LossConfig())


def _task_of_rows(source: DataSource, rows: list[Row]) -> TaskData:
    if not rows:
        raise UserError(f"{source.source}: has no rows; give a data set that has some")
    renames = source.columns or {}
    found = {column for _, row in rows for column in row}
    for column in renames.values():
        if column not in found:
            raise UserError(f"{source.source}: no column {column!r} (see 'columns'); found {_listed(found)}")
    kind, text_columns, target_column = _schema(source.source, found | set(renames))
    rows = [row for row in rows if _reaches(source, row, renames.get("score", "score"))]
    if not rows:
        raise UserError(f"{source.source}: no row has a score of {source.min_score} or more; lower min_score")
    texts = [[_text(row, renames.get(column, column)) for row in rows] for column in text_columns]
    target: list[float] | list[int] | None = None
    if kind == "graded":
        target = [_unit_score(row, renames.get("score", "score")) for row in rows]
    elif target_column is not None:
        target = _label_numbers([_label(row, renames.get(target_column, target_column)) for row in rows])
    return TaskData(source.name, kind, texts, _prompts(source, text_columns), target, None, LossConfig())


def _schema(source: str, columns: set[str]) -> tuple[Kind, list[str], str | None]:
    """Kind of rows, text columns and target column; columns beyond these are ignored."""
    for kind, (texts, target) in SCHEMAS.items():
        if columns >= {*texts, *([target] if target else [])}:
            negatives = sorted(filter(NEGATIVE.match, columns), key=lambda name: (len(name), name))
            return kind, texts + (negatives if kind == "pairs" else []), target
    raise UserError(
        f"{source}: found columns {_listed(columns)}; needs anchor, positive[, negative] or sentence1, sentence2, "
        "score or text, label (rename with 'columns')"
    )


def _listed(columns: Collection[str]) -> str:
    return ", ".join(sorted(map(str, columns)))


def _prompts(source: DataSource, text_columns: Sequence[str]) -> list[str]:
    prompts = source.prompts or {}
    unknown = prompts.keys() - {*text_columns, "negative"}
    if unknown:
        raise UserError(
            f"{source.name}: prompts names {_listed(unknown)}; the text columns are {_listed(text_columns)}"
        )
    negative = prompts.get("negative", prompts.get("positive", ""))
    return [prompts.get(column, negative if column.startswith("negative") else "") for column in text_columns]


def _text(row: Row, column: str) -> str:
    where, values = row
    text = values.get(column)
    if not isinstance(text, str) or not text.strip():
        what = "has no" if column not in values else "is blank in" if isinstance(text, str) else "holds no string in"
        raise UserError(f"{where}: {what} column {column!r}; every row needs a text there")
    return text


def _number(row: Row, column: str) -> float:
    where, values = row
    value = values.get(column)
    try:
        return float("nan" if value is None or isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise UserError(f"{where}: {column} is {value!r}, not a number") from None


def _unit_score(row: Row, column: str) -> float:
    score = _number(row, column)
    if not 0 <= score <= 1:
        raise UserError(f"{row[0]}: {column} is {row[1].get(column)!r}; scores lie in 0 to 1, rescale them")
    return score


def _reaches(source: DataSource, row: Row, column: str) -> bool:
    if source.min_score is None:
        return True
    if column not in row[1]:
        raise UserError(f"{row[0]}: has no column {column!r}, which min_score needs")
    return _number(row, column) >= source.min_score


def _label(row: Row, column: str) -> str:
    where, values = row
    label: Any = values.get(column)
    if not isinstance(label, str | int) or isinstance(label, bool) or label == "":
        raise UserError(f"{where}: {column} is {label!r}; labels are strings or whole numbers")
    return str(label)


def _label_numbers(labels: list[str]) -> list[int]:
    numbers = {label: number for number, label in enumerate(sorted(set(labels)))}
    return [numbers[label] for label in labels]
