"""Sending a model folder to the Hugging Face hub."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modules.checkpoints.base_model import without_path
from modules.errors import UserError, first_line
from modules.json_files import read_json, write_json
from modules.model_card.card import EVAL_RESULTS

WEIGHTS = ".safetensors"

NOT_SENT = ("statistics", "__pycache__")
"""Folders of a model folder that are no part of the model."""

TELLING = ("merge.json", "lineage.json", "config.json", "tokenizer_config.json", "adapter_config.json")
"""Files that may name the folders that a model comes from."""

PATH_KEYS = ("path", "base", "from", "_name_or_path", "name_or_path", "base_model_name_or_path")
"""Keys of these files whose value may be a path."""


def check_destination(name: str | None, private: bool | None) -> str | None:
    """Return the whole name of a repository, after asking the hub what it would refuse at the end.

    Args:
        name: ``org/name``, or ``name`` in the user's own namespace; None: nothing is sent.
        private: whether a new repository is private.

    Raises:
        UserError: the name has a wrong form, there is no token, the hub does not answer or does not know the token, the
            namespace is not the user's, or nothing is sent that could be private.
    """
    if name is None:
        if private:
            raise UserError("--private: it is for --push_to_hub NAME")
        return None
    from huggingface_hub import HfApi, get_token  # here, because a model that stays at home needs none of it
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--push_to_hub {name}: not a name of the form org/name ({first_line(error)})") from error
    if get_token() is None:
        raise UserError("--push_to_hub: there is no token for the hub; log in with: hf auth login, or set HF_TOKEN")
    try:
        user = HfApi().whoami()
    except Exception as error:  # the libraries below raise their own kinds
        raise UserError(f"--push_to_hub: the hub does not answer as it should: {first_line(error)}") from error
    names = [user["name"], *(org["name"] for org in user.get("orgs", []))]
    owner = name.rpartition("/")[0] or user["name"]
    if owner not in names:
        raise UserError(f"--push_to_hub {name}: the token is of {names[0]}, who may write to {', '.join(names)}")
    return f"{owner}/{name.rpartition('/')[2]}"


def push_to_hub(folder: Path, name: str, private: bool) -> str:
    """Send a model to the hub, and return where it is there.

    Args:
        folder: of the model, or a link to it.
        name: see `check_destination`.
        private: whether a new repository is private; one that is there stays as it is.

    Raises:
        UserError: the hub did not take it; what was to be sent is kept, and named.
    """
    from huggingface_hub import HfApi

    sent = folder.with_name(f"{folder.name}.upload")
    write_upload(folder, sent)
    try:
        api = HfApi()
        place = api.create_repo(name, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=sent, commit_message="Upload model")
    except Exception as error:  # the libraries below raise their own kinds
        raise UserError(
            f"the model is complete in {folder}, but was not sent ({first_line(error)}): hf upload {name} {sent}"
        ) from error
    shutil.rmtree(sent)
    return str(place)


def write_upload(folder: Path, out: Path) -> None:
    """Write a model folder as it is sent: no links, nothing that is not the model, and names in the place of paths.

    Args:
        folder: of the model, or a link to it.
        out: the folder to write, in the place of what was there.
    """
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder.resolve(), out, ignore=_not_sent, copy_function=_copy)
    for file in out.rglob("*.json"):
        if file.name in TELLING:
            write_json(file, _without_paths(read_json(file)))


def _not_sent(folder: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name in NOT_SENT or (name.startswith(".") and name != EVAL_RESULTS)]


def _copy(file: str, out: str) -> None:
    """Copy a file; weights share their place on the disk with the original where the file system allows it."""
    if file.endswith(WEIGHTS):
        try:
            os.link(os.path.realpath(file), out)
            return
        except OSError:
            pass
    shutil.copyfile(file, out)


def _without_paths(content: Any) -> Any:
    """Return a JSON value with names in the place of paths."""
    if isinstance(content, list):
        return [_without_paths(part) for part in content]
    if not isinstance(content, dict):
        return content
    return {
        key: without_path(part) if key in PATH_KEYS and isinstance(part, str) else _without_paths(part)
        for key, part in content.items()
    }
