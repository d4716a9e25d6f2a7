"""JSON files of model folders and runs: reading, writing, hashing and comparing them."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from modules.errors import UserError


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file aside and rename it, so that a reader never sees half of it."""
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    aside.replace(path)


def read_json(path: Path, default: Any = None) -> Any:
    """Return the content of a JSON file, or `default` where there is no such file.

    Raises:
        UserError: the file is not valid JSON.
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
    """Return the content of a JSON file that keeps results, or `default` where it is absent or damaged.

    Args:
        path: of the file.
        default: returned in place of the content.
        instead: the consequence of a damaged file, for the message.
        say: prints the message.
    """
    try:
        return read_json(path, default)
    except UserError:
        say(f"{path} is damaged: {instead}")
        return default


def json_sha256(content: Any) -> str:
    """Return the sha256 of a JSON value, in hexadecimal; the order of keys does not count."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def path_within(folder: Path, name: str, file: Path) -> Path:
    """Return the path of a file or folder that a JSON file names, which must lie in the folder of the model.

    The name is judged, not the resolved path, because files in the Hugging Face cache are links out of the folder.

    Args:
        folder: of the model.
        name: as the JSON file has it.
        file: the JSON file, for the message.

    Raises:
        UserError: the name leads out of the folder.
    """
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or ".." in name.replace("\\", "/").split("/"):
        raise UserError(f"{file} names {name!r}, which is outside the model's folder; fetch or save the model again")
    return folder / name


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the places where two JSON values differ.

    Args:
        ours: one value.
        theirs: the other.
        path: of both, for the recursion.

    Yields:
        The place, as ``key.key[2]``, and both values there; an absent value is None.
    """
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in dict.fromkeys([*ours, *theirs]):
            yield from differences(ours.get(key), theirs.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{path}[{i}]")
    elif ours != theirs:
        yield path, ours, theirs


def shown(value: Any) -> str:
    """Return a JSON value for a message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
