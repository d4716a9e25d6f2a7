"""The command line's parser: one clear line for a mistake, with the nearest name."""

import difflib
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from modules import UserError


class OneLineParser(LightningArgumentParser):
    """A parser that raises `UserError` instead of printing usage and several lines."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the gist of an error."""
        raise UserError(one_line(message, self._known_keys())) from ex

    def _known_keys(self) -> list[str]:
        keys = [action.dest for action in self._actions]
        subparsers = [p for action in self._actions for p in (getattr(action, "choices", None) or {}).values()]
        return keys + [key for p in subparsers if isinstance(p, OneLineParser) for key in p._known_keys()]


def one_line(message: str, known: list[str]) -> str:
    """The gist of one of jsonargparse's messages.

    Args:
        message: of several lines: the key, then what each type of a union had against its value.
        known: names of all keys, for a hint.
    """
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    unknown = re.search(r"(?:Key|Option|[Nn]ested key|[Uu]nrecognized arguments?:?) '?-{0,2}([\w.]+)'?", message)
    if unknown and re.search(r"not expected|[Uu]nrecognized|not accepted|not found", message):
        name = unknown.group(1)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or difflib.get_close_matches(
            name.rsplit(".", 1)[-1], [key.rsplit(".", 1)[-1] for key in known], n=1
        )
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"unknown key '{name}'{hint}"
    return " ".join(dict.fromkeys(lines))[:600]


def recipe_path(name: str) -> str:
    """The file of a recipe.

    Args:
        name: a path, or the name of a packaged recipe.

    Raises:
        UserError: there is neither such a file nor such a recipe.
    """
    if Path(name).is_file():
        return name
    packaged = {Path(str(file)).stem: str(file) for file in files("lightning_app").joinpath("recipes").iterdir()}
    if name in packaged:
        return packaged[name]
    near = difflib.get_close_matches(name, packaged, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"packaged are {', '.join(sorted(packaged))}"
    raise UserError(f"recipe '{name}' is neither a file nor a packaged recipe; {hint}")


def with_recipe(arguments: list[str], default: str) -> list[str]:
    """Command-line arguments of a verb, with the names of recipes replaced by their files.

    Args:
        arguments: those after the verb.
        default: the recipe to use where none is named. It is not a default config file of the parser, whose keys
            would leak into every recipe of the user's own.
    """
    result: list[Any] = []
    named = False
    for i, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option in ("--config", "-c") and value:
            result.append(f"{option}={recipe_path(value)}")
            named = True
        elif i and arguments[i - 1] in ("--config", "-c"):
            result.append(recipe_path(argument))
            named = True
        else:
            result.append(argument)
    return result if named else ["--config", recipe_path(default), *result]
