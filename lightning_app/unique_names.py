"""Names for what a command line gives by its path alone."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

OF_EVERY_RUN = "model"
"""The name of the folder in which every run leaves its model, so that the folder above it tells them apart."""


def unique_names(models: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """Return the names of models, each once; see `short_name` and `numbered`.

    Args:
        models: folders or hub names.
        taken: names that none of them may have.
    """
    return numbered(map(short_name, models), taken)


def short_name(model: str) -> str:
    """Return the name of a model's folder, or of a hub model; of ``runs/faq/model`` it is ``faq``.

    Args:
        model: a folder or hub name.
    """
    path = Path(os.path.abspath(Path(model).expanduser()))
    return path.parent.name if path.name == OF_EVERY_RUN else path.name


def numbered(stems: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Return names as they are; of equal ones, all but the first get a number.

    Args:
        stems: the names.
        taken: names that none of them may have.
    """
    known, names = set(taken), []
    for stem in stems:
        name, number = stem, 1
        while name in known:
            number += 1
            name = f"{stem}-{number}"
        known.add(name)
        names.append(name)
    return names
