"""Values of a row, each checked; what is wrong with one is said with the place of its row."""

from collections.abc import Iterable
from typing import Any

from datamodules.row_files import Row
from modules.errors import UserError

LIKE_MISSING = {"na", "n/a", "nan", "none", "null"}
"""Labels that other programs write for a missing value."""


def text(row: Row, column: str) -> str:
    """The text of a column.

    Raises:
        UserError: there is none, or it is blank.
    """
    value = row.values.get(column)
    if not isinstance(value, str) or not value.strip():
        found = (
            "is blank in" if isinstance(value, str) else "holds a list in" if _is_list(value) else "holds no string in"
        )
        what = "has no" if column not in row.values else found
        raise UserError(f"{row.where}: {what} column {column!r}; every row needs a text there")
    return value


def texts(row: Row, column: str) -> list[str]:
    """The texts of a column that holds one, or a list of them; none if it is missing, null or blank.

    Raises:
        UserError: it holds anything else, or a blank text in its list.
    """
    value = row.values.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if not _is_list(value):
        return [text(row, column)]
    if not all(isinstance(item, str) and item.strip() for item in value):
        raise UserError(f"{row.where}: the list in column {column!r} holds something else than texts; mend it")
    return list(value)


def prompt(row: Row, column: str) -> str:
    """Return the prefix that a column gives its row; it may be empty.

    Raises:
        UserError: it is no string.
    """
    value = row.values.get(column)
    if not isinstance(value, str):
        raise UserError(f"{row.where}: {column} is {value!r}; every row needs a string there, empty for no prompt")
    return value


def number(row: Row, column: str) -> float:
    """The number of a column, NaN if there is none.

    Raises:
        UserError: it holds anything else.
    """
    value = row.values.get(column)
    try:
        return float("nan" if value is None or isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise UserError(f"{row.where}: {column} is {value!r}, not a number") from None


def unit_score(row: Row, column: str) -> float:
    """The number of a column, in [0, 1].

    Raises:
        UserError: it is not.
    """
    score = number(row, column)
    if not 0 <= score <= 1:
        raise UserError(f"{row.where}: {column} is {row.values.get(column)!r}; scores lie in 0 to 1, rescale them")
    return score


def name(row: Row, column: str) -> str:
    """Return the name of a label or a group: a string or a whole number.

    Raises:
        UserError: it is anything else, or empty.
    """
    value: Any = row.values.get(column)
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise UserError(f"{row.where}: {column} is {value!r}; {column}s are strings or whole numbers")
    return str(value)


def like_missing(names: Iterable[str]) -> list[str]:
    """Return the names that may have been meant for a missing value."""
    return sorted(name for name in set(names) if name.strip().lower() in LIKE_MISSING)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
