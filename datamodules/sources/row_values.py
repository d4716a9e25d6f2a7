"""Values of a row, each checked; what is wrong with one is said with the place of its row."""

from typing import Any

from datamodules.sources.row_blocks import BadRow, Row


def text(row: Row, column: str) -> str:
    """Return the text of a column.

    Raises:
        BadRow: there is none, or it is blank.
    """
    value = row.values.get(column)
    if not isinstance(value, str) or not value.strip():
        found = (
            "is blank in" if isinstance(value, str) else "holds a list in" if _is_list(value) else "holds no string in"
        )
        what = "has no" if column not in row.values else found
        raise BadRow(row.where, f"no text in {column!r}", f"{what} column {column!r}; every row needs a text there")
    return _whole(row, column, value)


def texts(row: Row, column: str) -> list[str]:
    """Return the texts of a column that holds one, or a list of them; none if it is missing, null or blank.

    Raises:
        BadRow: it holds anything else, or a blank text in its list.
    """
    value = row.values.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if not _is_list(value):
        return [text(row, column)]
    if not all(isinstance(item, str) and item.strip() for item in value):
        details = f"the list in column {column!r} holds something else than texts; mend it"
        raise BadRow(row.where, f"no texts in the list in {column!r}", details)
    return [_whole(row, column, item) for item in value]


def prompt(row: Row, column: str) -> str:
    """Return the prefix that a column gives its row; it may be empty.

    Raises:
        BadRow: it is no string.
    """
    value = row.values.get(column)
    if not isinstance(value, str):
        details = f"{column} is {value!r}; every row needs a string there, empty for no prompt"
        raise BadRow(row.where, f"no string in {column!r}", details)
    return _whole(row, column, value)


def number(row: Row, column: str) -> float:
    """Return the number of a column, NaN if there is none.

    Raises:
        BadRow: it holds anything else.
    """
    value = row.values.get(column)
    try:
        return float("nan" if value is None or isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        raise BadRow(row.where, f"no number in {column!r}", f"{column} is {value!r}, not a number") from None


def score(row: Row, column: str, span: tuple[float, float] | None) -> float:
    """Return the number of a column, rescaled to [0, 1].

    Args:
        row: the row.
        column: of the score.
        span: the least and the largest score there may be; None: 0 and 1.

    Raises:
        BadRow: it lies outside.
    """
    found, (low, high) = number(row, column), span or (0.0, 1.0)
    if not low <= found <= high:
        advice = "mend it, or score_range" if span else "or give their range, score_range: [0, 5] for example"
        details = f"{column} is {row.values.get(column)!r}; scores lie in {low:g} to {high:g}, {advice}"
        raise BadRow(row.where, f"no {column} in {low:g} to {high:g}", details)
    return (found - low) / (high - low)


def name(row: Row, column: str) -> str:
    """Return the name of a label or a group: a string or a whole number.

    Raises:
        BadRow: it is anything else, or empty.
    """
    value: Any = row.values.get(column)
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        details = f"{column} is {value!r}; {column}s are strings or whole numbers"
        raise BadRow(row.where, f"no string or whole number in {column!r}", details)
    return _whole(row, column, str(value))


def reaches(row: Row, column: str, least: float) -> bool:
    """Return whether the number of a column is at least so large; one that is missing is not.

    Raises:
        BadRow: the row has no such column.
    """
    if column not in row.values:
        raise BadRow(row.where, f"no {column!r}", f"has no column {column!r}, which min_score needs")
    return number(row, column) >= least


def _whole(row: Row, column: str, value: str) -> str:
    """The value itself.

    Raises:
        BadRow: it has half a character: JSON can write the two parts of one, and nothing can store one of them.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        details = f"holds half a character (a lone surrogate) in column {column!r}; mend the text"
        raise BadRow(row.where, f"half a character in {column!r}", details) from None
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
