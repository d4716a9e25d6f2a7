"""The columns of a source by their part in a row: as named, as renamed, or as other tools name them."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from datamodules.sources.data_source import DataSource
from modules.encoding.prompts import Side
from modules.errors import UserError
from modules.losses.task_batch import Kind

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

OTHER_NAMES = {
    "anchor": ("query", "question"),
    "positive": ("positives", "pos", "answer"),
    "negative": ("negatives", "neg"),
}
"""Column of pairs -> how other tools name it (FlagEmbedding: query, pos, neg), where there is one such name only."""

EXPECTED = (
    "anchor", "positive", "negative", "sentence1", "sentence2", "score", "text", "label", "group", "instruction",
    "document_instruction",
)  # fmt: skip


RENAME = "rename with 'columns'"
"""What to do about columns that are those of no kind of rows."""


@dataclass(frozen=True)
class Columns:
    """The columns that are read of a source, and which scores they may have.

    Args:
        kind: of its rows.
        texts: name of each text column, negatives aside, to its column of the source.
        negatives: the same for columns of negatives; each holds a text, a list of texts, or nothing in some rows.
        target: column of the source with the score or the label.
        group: column of the source that says which rows belong together.
        instructions: side to the column of the source with the prompts of its texts.
        score: column of the source that ``min_score`` looks at.
        min_score: rows whose score is below are left out; None: none are.
        score_range: the least and the largest score there may be; None: 0 and 1.
        notes: what was assumed, and which columns are not used, one line each.
    """

    kind: Kind
    texts: dict[str, str]
    negatives: dict[str, str] = field(default_factory=dict)
    target: str | None = None
    group: str | None = None
    instructions: dict[Side, str] = field(default_factory=dict)
    score: str = "score"
    min_score: float | None = None
    score_range: tuple[float, float] | None = None
    notes: list[str] = field(default_factory=list)


def find_columns(source: DataSource, found: set[str]) -> Columns:
    """Return which columns are which.

    Args:
        source: the description of the data.
        found: names of all columns.

    Raises:
        UserError: a renamed column is not there, or the columns are those of no kind of rows.
    """
    named, assumed = _named(source, found)
    kind = _kind(named)
    if kind is None:
        raise UserError(
            f"{source.source}: found columns {listed(found.union(source.columns or {}))}; needs anchor, positive[, "
            f"negative] or sentence1, sentence2, score or text, label ({RENAME})"
        )
    if source.score_range is not None and kind != "graded":
        raise UserError(f"{source.name}: score_range is for graded rows, and these are {kind}; remove it")
    texts, target = SCHEMAS[kind]
    negatives = sorted(filter(NEGATIVE.match, named), key=lambda name: (len(name), name)) if kind == "pairs" else []
    read = [*texts, *negatives, target, "group", None if source.min_score is None else "score"]
    used = {named[name] for name in read if name in named}
    own = {side: named[name] for name, side in INSTRUCTIONS[kind].items() if name in named}
    instructions = {side: column for side, column in own.items() if column not in used}
    unread = found - used - set(instructions.values())
    return Columns(
        kind,
        {name: named[name] for name in texts},
        {name: named[name] for name in negatives},
        named[target] if target else None,
        named.get("group"),
        instructions,
        named.get("score", "score"),
        source.min_score,
        source.score_range,
        assumed + ([f"columns that are not used: {listed(unread)}"] if unread else []),
    )


def _named(source: DataSource, found: set[str]) -> tuple[dict[str, str], list[str]]:
    """Every name that a column goes by to the column, and notes on those that were found under another one."""
    renames = source.columns or {}
    for name, column in renames.items():
        if column not in found:
            raise UserError(f"{source.source}: no column {column!r} (see 'columns'); found {listed(found)}")
        if name not in EXPECTED and not NEGATIVE.match(name):
            raise UserError(
                f"{source.source}: columns names {name!r}; expected are {', '.join(EXPECTED)} and negative_1"
            )
    named = {name: name for name in found} | dict(renames)
    others = _other_names(found - set(renames.values()), named)
    if _kind(named) is not None:  # what has its own names is not taken for something else
        others = {name: column for name, column in others.items() if name == "negative" and _kind(named) == "pairs"}
    notes = [f"column {column!r} is read as {name}" for name, column in others.items()]
    return others | named, notes


def _other_names(free: set[str], named: Collection[str]) -> dict[str, str]:
    """The columns under the names of other tools: for each that is not there under its own, if one may be meant."""
    present = {name: [other for other in others if other in free] for name, others in OTHER_NAMES.items()}
    own = {"negative" if NEGATIVE.match(name) else name for name in named}
    return {name: others[0] for name, others in present.items() if len(others) == 1 and name not in own}


def _kind(names: Collection[str]) -> Kind | None:
    for kind, (texts, target) in SCHEMAS.items():
        if set(names) >= {*texts, *filter(None, [target])}:
            return kind
    return None


def listed(names: Iterable[str]) -> str:
    """Return names in alphabetic order, for a message."""
    return ", ".join(sorted(map(str, names)))
