"""Names for what a command line gives by its path alone."""

from collections.abc import Iterable, Sequence
from pathlib import Path


def unique_names(models: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """Return the names of models' folders, each once; see `numbered`.

    Args:
        models: folders or hub names.
        taken: names that none of them may have.
    """
    return numbered([Path(model).expanduser().resolve().name for model in models], taken)


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
