"""JSON files, of model folders and of what runs keep."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.errors import UserError


def write_json(path: Path, content: Any) -> None:
    """Written aside and renamed, so that a reader never sees half of it."""
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    aside.replace(path)


def read_json(path: Path, default: Any = None) -> Any:
    """The content of a JSON file; `default` where there is no such file.

    Raises:
        UserError: it is not valid JSON.
    """
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid JSON (no text at byte {error.start})") from error


def read_kept_json(path: Path, default: Any, instead: str, say: Callable[[str], Any]) -> Any:
    """The content of a JSON file that spares work; `default` where there is none, or half of one.

    Args:
        path: of the file.
        default: what is returned in its place.
        instead: what happens where the file is damaged.
        say: prints that.
    """
    try:
        return read_json(path, default)
    except UserError:
        say(f"{path} is damaged: {instead}")
        return default
