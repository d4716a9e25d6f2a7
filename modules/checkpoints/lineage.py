"""The models that a model comes from, in a file beside its weights."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from modules.errors import UserError

FILE = "lineage.json"

HASHED = "tensors"
"""The content that the recorded hashes are taken of; see `modules.checkpoints.identity.weights_identity`."""


def write_lineage(folder: str | Path, ancestors: Sequence[str], base: str | None = None) -> None:
    """Record the models that the training of a model started from.

    Args:
        folder: of the model.
        ancestors: identity of the weights of every such model, nearest last.
        base: folder or hub name of the nearest; None: not known.
    """
    named = {} if base is None else {"base": str(Path(base).resolve()) if Path(base).is_dir() else base}
    content = {"hashed": HASHED, "ancestors": list(ancestors), **named}
    (Path(folder) / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def lineage_through(folder: str | Path, weights: str, say: Callable[[str], None] = print) -> list[str]:
    """Return the ancestors of a model that is made from the model in a folder: that model's, and itself.

    Args:
        folder: of the model that it is made from.
        weights: identity of the weights there.
        say: prints a line, see `read_lineage`.
    """
    return [*(read_lineage(folder, say) or []), weights]


def read_lineage(folder: str | Path, say: Callable[[str], None] = print) -> list[str] | None:
    """Return the recorded ancestors of a model; None where no comparable ancestors are recorded.

    Args:
        folder: of the model.
        say: prints a line where the record names models by other hashes.

    Raises:
        UserError: the file is no record of ancestors.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ancestors = [str(ancestor) for ancestor in content["ancestors"]]
        hashed = content.get("hashed")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a record of ancestors; remove it, or write it anew") from error
    if hashed != HASHED:
        say(f"{path} names models by hashes of {hashed or 'files'}, not of {HASHED}: it counts as saying nothing")
        return None
    return ancestors
