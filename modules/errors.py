"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """A mistake in a recipe, a data file or a model folder.

    Its message is one line that says what is wrong, where (file and line, or key) and what to do. The command
    line prints that line and exits with status 2; from Python it is an ordinary ``ValueError``.
    """
