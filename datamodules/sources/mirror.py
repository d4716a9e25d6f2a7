"""Hub data sets read from a local copy instead of the network."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlparse

from modules.errors import UserError

ROOT_VARIABLE = "MTEB_DATA_ROOT"
"""Environment variable that names the mirror where no folder is given."""

CONNECT_SECONDS = 5
"""How long the hub may take to answer before it counts as out of reach."""


def mirrored_path(name: str, root: str | None = None) -> str:
    """Return where ``datasets.load_dataset`` shall find the hub data set ``name``.

    Args:
        name: ``org/name`` on the hub.
        root: folder that holds data sets as ``root/org/name``; None: the folder in ``MTEB_DATA_ROOT``, if set.

    Returns:
        The folder of the data set if the mirror has it, else ``name`` itself, which is then read from the hub.

    Raises:
        UserError: the mirror is not a folder.
    """
    source = "data_root" if root else ROOT_VARIABLE
    root = root or os.environ.get(ROOT_VARIABLE)
    if not root:
        return name
    mirror = Path(root).expanduser()
    if not mirror.is_dir():
        raise UserError(f"{source}: {mirror} is not a folder; give one that holds data sets as org/name, or unset it")
    folder = mirror / name
    return str(folder) if folder.is_dir() else name


def tried_places(name: str, root: str | None = None) -> str:
    """Return where `mirrored_path` has looked for a data set that could not be read, for an error message."""
    root = root or os.environ.get(ROOT_VARIABLE)
    if not root:
        return f"{name} on the hub; data_root names a folder with a copy"
    folder = Path(root).expanduser() / name
    return str(folder) if folder.is_dir() else f"{folder} (not there) or {name} on the hub"


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """In this block, ``datasets`` reads the hub if it answers, and else only its cache.

    Without it, a data set that is not there takes half a minute of retries on a machine without a network.
    """
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if not any(before) and not _answers(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@cache
def _answers(endpoint: str) -> bool:
    """Return whether a connection can be made; a proxy, if there is one, is trusted to make it."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    url = urlparse(endpoint)
    try:
        socket.create_connection((url.hostname, url.port or 443), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
