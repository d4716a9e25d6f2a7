"""``<run_dir>/model``: the model that a finished ``fit`` has made."""

import os
import shutil
from pathlib import Path

from modules import UserError

NAME = "model"


def publish(run_dir: str | Path, model: str | Path) -> str:
    """Make ``<run_dir>/model`` refer to a model, in the place of what it was before.

    Args:
        run_dir: of the run.
        model: the folder, somewhere below it.

    Returns:
        A line that says where the model is: a link to the folder, or a copy where the file system has no links.
    """
    place = Path(run_dir) / NAME
    aside = place.with_name(f".{NAME}.tmp")
    target = os.path.relpath(Path(model).resolve(), place.parent.resolve())
    _remove(aside)
    try:
        aside.symlink_to(target, target_is_directory=True)
        how = "a link to"
    except OSError:
        shutil.copytree(model, aside)
        how = "a copy of"
    if not (place.is_symlink() and aside.is_symlink()):  # a link takes the place of a link in one step
        _remove(place)
    aside.replace(place)
    return f"the model: {place}, {how} {target}"


def finished_model(run_dir: str | Path) -> str:
    """The folder of the model that a run has made.

    Raises:
        UserError: it has made none yet.
    """
    place = Path(run_dir) / NAME
    if not (place / "config.json").is_file():
        raise UserError(f"there is no model {place}: run fit first, or name another one with --folder")
    return str(place)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
