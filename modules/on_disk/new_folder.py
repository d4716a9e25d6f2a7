"""A new folder, written aside and renamed at the end: one of its name is complete."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modules.errors import UserError


def refuse_taken(out: str | Path) -> Path:
    """Return the folder that a model goes to.

    Raises:
        UserError: something is there.
    """
    out = Path(out).expanduser()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists already; remove it or choose another --out")
    return out


@contextmanager
def written_aside(out: Path) -> Iterator[Path]:
    """Make a hidden folder that gets the name `out` if the block succeeds, and is removed if not.

    Raises:
        UserError: it cannot be written.
    """
    out = out.absolute()
    aside = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        yield aside
        aside.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
