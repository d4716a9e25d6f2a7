"""From the description of a data set in a recipe to its checked rows."""

import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datamodules import row_values
from datamodules.pair_rows import Pairs, read_pairs
from datamodules.python_docs import load_python_docs
from datamodules.row_files import Row, read_rows
from datamodules.task_data import Kind, TaskData, resolve_loss
from modules.encoding.prompts import Side
from modules.errors import UserError
from modules.losses.task_batch import LossConfig

FILE_SUFFIX = re.compile(r"\.(jsonl|jsonl\.gz|csv|parquet)$")
NEGATIVE = re.compile(r"negative(_\d+)?$")
SCHEMAS: dict[Kind, tuple[list[str], str | None]] = {
    "pairs": (["anchor", "positive"], None),
    "graded": (["sentence1", "sentence2"], "score"),
    "labelled": (["text"], "label"),
}
"""Kind of rows -> text columns and target column; pairs may also have negative or negative_1, negative_2, ..."""

INSTRUCTIONS: dict[Kind, dict[str, Side]] = {
    "pairs": {"instruction": "query", "document_instruction": "document"},
    "graded": {"instruction": "text"},
    "labelled": {"instruction": "text"},
}
"""Kind of rows -> columns that give a row a prompt of its own, and the side whose texts it goes before."""

EXPECTED = (
    "anchor", "positive", "negative", "sentence1", "sentence2", "score", "text", "label", "group", "instruction",
    "document_instruction",
)  # fmt: skip

BEYOND_LIMIT = "limit"
BELOW_MIN_SCORE = "below min_score"


@dataclass(frozen=True)
class DataSource:
    """Where the rows of one data set come from, and how they are used.

    Args:
        source: ``python_docs``, the path of a .jsonl, .jsonl.gz, .csv or .parquet file, of a folder of such files or
            of one that ``datasets`` saved with ``save_to_disk``, or a hub name ``org/name``.
        task: of python_docs: ``retrieval`` or ``relatedness``; of a hub data set: its config.
        split: of a hub data set, and of a folder that has several.
        columns: expected column -> column of the source, for columns that are named otherwise. ``group``, if there is
            one, says which rows belong together when some are held out. ``instruction`` is the prompt of its row: of
            the anchor, or of every text of graded and labelled rows; ``document_instruction`` that of positive and
            negatives. Both are put before the text as they are, and win over ``prompts``.
        prompts: text column -> prefix; negatives take that of ``positive`` if none is given. The other columns have the
            prompts of the model: anchors as queries, positives and negatives as documents, all else its default.
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
    task = replace(task, loss=resolve_loss(source.name, task.kind, source.loss or loss or LossConfig()))
    if source.limit is None or source.limit >= len(task):
        return task
    drawn = task.subset(sorted(random.Random(0).sample(range(len(task)), source.limit)))
    return replace(drawn, left_out=task.left_out | {BEYOND_LIMIT: len(task) - len(drawn)})


def _python_docs_task(source: DataSource) -> TaskData:
    if source.task is None:
        raise UserError(f"{source.name}: python_docs needs 'task': retrieval or relatedness")
    texts, target, groups = load_python_docs(source.task)
    kind: Kind = "pairs" if target is None else "graded"
    prompts = _prompts(source, SCHEMAS[kind][0])
    places = list(range(1, len(groups) + 1))
    return TaskData(source.name, kind, texts, prompts, target, groups, LossConfig(), places)


def _task_of_rows(source: DataSource, rows: list[Row]) -> TaskData:
    if not rows:
        raise UserError(f"{source.source}: has no rows; give a data set that has some")
    found = {column for row in rows for column in row.values}
    columns = _columns(source, found)
    kind, text_columns, target_column = _schema(source.source, columns)
    reaching = [row for row in rows if _reaches(source, row, columns.get("score", "score"))]
    if not reaching:
        raise UserError(f"{source.source}: no row has a score of {source.min_score} or more; lower min_score")
    left_out = {BELOW_MIN_SCORE: len(rows) - len(reaching)} if len(reaching) < len(rows) else {}

    if kind == "pairs":
        pairs = read_pairs(reaching, columns, text_columns[2:])
    else:
        texts = [[row_values.text(row, columns[name]) for row in reaching] for name in text_columns]
        pairs = Pairs(text_columns, texts, reaching)
    target, labels = _target(pairs.rows, kind, columns)
    groups = [row_values.name(row, columns["group"]) for row in pairs.rows] if "group" in columns else None
    names = {*text_columns, target_column, "group", None if source.min_score is None else "score"}
    read = {column for name, column in columns.items() if name in names}
    instructions = _instructions(pairs.rows, kind, columns, read)
    read |= {column for name, column in columns.items() if name in INSTRUCTIONS[kind]}
    notes = [*pairs.notes, *labels, *_unread(found, read)]
    places = [row.number for row in pairs.rows]
    prompts = _prompts(source, pairs.names)
    return TaskData(
        source.name, kind, pairs.texts, prompts, target, groups, LossConfig(), places, left_out, notes, instructions
    )


def _columns(source: DataSource, found: set[str]) -> dict[str, str]:
    """Expected column -> column of the source: as renamed, of that name, or of its plural."""
    renames = source.columns or {}
    for name, column in renames.items():
        if column not in found:
            raise UserError(f"{source.source}: no column {column!r} (see 'columns'); found {_listed(found)}")
        if name not in EXPECTED and not NEGATIVE.match(name):
            raise UserError(
                f"{source.source}: columns names {name!r}; expected are {', '.join(EXPECTED)} and negative_1"
            )
    plurals = {name: f"{name}s" for name in ("positive", "negative") if f"{name}s" in found}
    return plurals | {column: column for column in found} | renames


def _target(rows: list[Row], kind: Kind, columns: dict[str, str]) -> tuple[list[float] | list[int] | None, list[str]]:
    """Scores or numbers of labels, and a note about labels that look like missing ones."""
    if kind == "graded":
        return [row_values.unit_score(row, columns["score"]) for row in rows], []
    if kind == "pairs":
        return None, []
    labels = [row_values.name(row, columns["label"]) for row in rows]
    numbers = {label: number for number, label in enumerate(sorted(set(labels)))}
    odd = row_values.like_missing(labels)
    notes = [f"taken as labels like any other, not as missing: {', '.join(map(repr, odd))}"] if odd else []
    return [numbers[label] for label in labels], notes


def _instructions(rows: list[Row], kind: Kind, columns: dict[str, str], read: Collection[str]) -> dict[Side, list[str]]:
    """The prompts that rows have of their own; a column that is read as something else, as an anchor say, has none."""
    named = {side: columns[name] for name, side in INSTRUCTIONS[kind].items() if name in columns}
    return {
        side: [row_values.prompt(row, column) for row in rows] for side, column in named.items() if column not in read
    }


def _unread(found: set[str], used: Collection[str]) -> list[str]:
    rest = found - set(used)
    return [f"columns that are not used: {_listed(rest)}"] if rest else []


def _schema(source: str, columns: Collection[str]) -> tuple[Kind, list[str], str | None]:
    """Kind of rows, text columns and target column."""
    for kind, (texts, target) in SCHEMAS.items():
        if set(columns) >= {*texts, *([target] if target else [])}:
            negatives = sorted(filter(NEGATIVE.match, columns), key=lambda name: (len(name), name))
            return kind, texts + (negatives if kind == "pairs" else []), target
    raise UserError(
        f"{source}: found columns {_listed(columns)}; needs anchor, positive[, negative] or sentence1, sentence2, "
        "score or text, label (rename with 'columns')"
    )


def _listed(columns: Collection[str]) -> str:
    return ", ".join(sorted(map(str, columns)))


def _prompts(source: DataSource, text_columns: Sequence[str]) -> list[str | None]:
    """The data set's own prefix of each text column; None: it has none."""
    prompts = source.prompts or {}
    unknown = prompts.keys() - {*text_columns, "negative"}
    if unknown:
        raise UserError(
            f"{source.name}: prompts names {_listed(unknown)}; the text columns are {_listed(text_columns)}"
        )
    negative = prompts.get("negative", prompts.get("positive"))
    return [prompts.get(column, negative if column.startswith("negative") else None) for column in text_columns]


def _reaches(source: DataSource, row: Row, column: str) -> bool:
    if source.min_score is None:
        return True
    if column not in row.values:
        raise UserError(f"{row.where}: has no column {column!r}, which min_score needs")
    return row_values.number(row, column) >= source.min_score
