"""Hub data sets read from a local copy instead of the network."""

import os
from pathlib import Path

from modules.errors import UserError

ROOT_VARIABLE = "MTEB_DATA_ROOT"
"""Environment variable that names the mirror where no folder is given."""


def mirrored_path(name: str, root: str | None = None) -> str:
    """Where ``datasets.load_dataset`` shall find the hub data set ``name``.

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
