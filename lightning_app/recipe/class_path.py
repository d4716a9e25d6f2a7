"""A class that a recipe names, with its arguments."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

from modules.errors import UserError, nearest


@dataclass(frozen=True)
class ClassPath:
    """A class by its import path, and arguments that it is made with.

    Args:
        class_path: as ``torch.optim.SGD``.
        init_args: name of an argument to its value.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)

    def load(self, kind: type, key: str, given: int) -> Callable[..., Any]:
        """Return what makes an object of the class.

        Args:
            kind: that the class has to be of.
            key: of the recipe, for messages.
            given: how many arguments are given when the object is made, before those of the recipe.

        Raises:
            UserError: there is no such class, it is of another kind, or has no such argument.
        """
        module, _, name = self.class_path.rpartition(".")
        try:
            found = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError):
            raise UserError(f"{key}: there is no {self.class_path}; give the import path of a class") from None
        if not (isinstance(found, type) and issubclass(found, kind)):
            raise UserError(f"{key}: {self.class_path} is no {kind.__name__}")
        known = list(inspect.signature(found).parameters)[given:]
        for argument in self.init_args:
            if argument not in known:
                raise UserError(
                    f"{key}.init_args: {self.class_path} has no argument '{argument}'; "
                    + nearest(argument, known, f"it has {', '.join(known)}")
                )
        return partial(found, **self.init_args)
