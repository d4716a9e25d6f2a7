"""Which models a model comes from: a file beside its weights."""

import json
from collections.abc import Sequence
from pathlib import Path

from modules.errors import UserError

FILE = "lineage.json"


def write_lineage(folder: str | Path, ancestors: Sequence[str]) -> None:
    """Record the sha256 of every model that the training of this one started from, nearest last."""
    path = Path(folder) / FILE
    path.write_text(json.dumps({"ancestors": list(ancestors)}, indent=2) + "\n", encoding="utf-8")


def lineage_through(folder: str | Path, sha256: str) -> list[str]:
    """The ancestors of what comes from the model in a folder: its own, and itself.

    Args:
        folder: of the model.
        sha256: of its weights.
    """
    return [*(read_lineage(folder) or []), sha256]


def read_lineage(folder: str | Path) -> list[str] | None:
    """The recorded ancestors; None where nothing is recorded.

    Raises:
        UserError: the file is not as `write_lineage` leaves it.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        return [str(sha256) for sha256 in json.loads(path.read_text(encoding="utf-8"))["ancestors"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a record of ancestors; remove it, or write it anew") from error
