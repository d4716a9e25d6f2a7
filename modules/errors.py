"""What the command line says in one line: a mistake that the user can mend, a run that the user stopped."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a recipe, a data file or a model folder.

    Its message is one line that says what is wrong, where (file and line, or key) and what to do. The command
    line prints that line and exits with status 2; from Python it is an ordinary ``ValueError``.
    """


class Interrupted(Exception):
    """The user stopped it by Ctrl-C or SIGTERM; its message says what was kept, and the exit status is 130."""


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """A hint at the known name that may have been meant."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else otherwise


def first_line(error: Exception) -> str:
    """Return kind and first line of a library's error, for a message of one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
