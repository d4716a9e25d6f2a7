"""A class that a recipe names, with its arguments."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from modules.errors import UserError, nearest


def maker_of(described: Mapping[str, Any], kind: type, key: str) -> Callable[..., Any]:
    """Return what makes an object of a class, given its first argument.

    Args:
        described: ``class_path``, as ``torch.optim.SGD``, and ``init_args``, argument to value.
        kind: that the class has to be of.
        key: of the recipe, for messages.

    Raises:
        UserError: there is no such class, it is of another kind, or has no such argument.
    """
    path = described.get("class_path")
    if set(described) - {"class_path", "init_args"} or not isinstance(path, str):
        raise UserError(f"{key}: {dict(described)} is no class; give class_path and init_args")
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise UserError(f"{key}: there is no {path}; give the import path of a class") from None
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UserError(f"{key}: {path} is no {kind.__name__}")
    arguments = dict(described.get("init_args") or {})
    known = list(inspect.signature(found).parameters)[1:]
    for argument in arguments:
        if argument not in known:
            hint = nearest(argument, known, f"it has {', '.join(known)}")
            raise UserError(f"{key}.init_args: {path} has no argument '{argument}'; {hint}")
    return partial(found, **arguments)
