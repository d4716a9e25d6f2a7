"""Exceptions that the command line prints as one line: a user's mistake, and a run that the user stopped."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a recipe, a data file or a model folder.

    Its message is one line that says what is wrong, where (file and line, or key) and what to do. The command
    line prints that line and exits with status 2; from Python it is an ordinary ``ValueError``.

    Example:
        >>> TextEncoder.load("./experts/stss")
        Traceback (most recent call last):
        modules.errors.UserError: model './experts/stss' not found: no such directory, and it is not a hub name ...
    """


class Interrupted(Exception):
    """Raised when Ctrl-C or SIGTERM stops a run; the message says what was kept, and the exit status is 130."""


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return a hint at the known name that may have been meant.

    Args:
        name: the unknown name.
        known: the valid names.
        otherwise: the hint where no known name is near.
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else otherwise


def first_line(error: Exception) -> str:
    """Return the class and the first line of a library's error, for a message of one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
