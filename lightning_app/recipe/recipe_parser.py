"""The command line's parser: one clear line for a mistake, with the nearest name."""

import difflib
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace
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


def instantiate(**values: tuple[Any, Any]) -> Namespace:
    """Parts of a parsed configuration as objects.

    Args:
        values: name to type and parsed value.
    """
    parser = LightningArgumentParser()
    for name, (kind, _) in values.items():
        parser.add_argument(f"--{name}", type=kind)
    return parser.instantiate(Namespace({name: value for name, (_, value) in values.items()}))


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
    if told := [line for line in lines if line.startswith("unknown key")]:
        lines = [lines[0], *told]  # what the other types of the union had against the value says no more
    return " ".join(dict.fromkeys(lines))[:600]


def packaged_recipes() -> dict[str, str]:
    """Name to file of the recipes that come with the package."""
    found = files("lightning_app").joinpath("recipes").iterdir()
    return {Path(str(file)).stem: str(file) for file in sorted(found, key=str)}


def recipe_path(name: str) -> str:
    """The file of a recipe.

    Args:
        name: a path, or the name of a packaged recipe.

    Raises:
        UserError: there is neither such a file nor such a recipe.
    """
    if Path(name).is_file():
        return name
    packaged = packaged_recipes()
    if name in packaged:
        return packaged[name]
    near = difflib.get_close_matches(name, packaged, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"packaged are {', '.join(packaged)}"
    raise UserError(f"recipe '{name}' is neither a file nor a packaged recipe; {hint}")


def with_recipe(arguments: list[str], default: str) -> list[str]:
    """The arguments of a verb, with ``--config FILE`` first and the names of recipes replaced by their files.

    Args:
        arguments: those after the verb.
        default: the recipe to use where none is named. It is not a default config file of the parser, whose keys
            would leak into every recipe of the user's own.

    Raises:
        UserError: several recipes are named, or one that is not there.
    """
    names, others = [], []
    rest = iter(arguments)
    for argument in rest:
        option, _, value = argument.partition("=")
        if option in ("--config", "-c"):
            names.append(value or next(rest, ""))
        else:
            others.append(argument)
    if len(names) > 1:
        raise UserError(f"several recipes are named: {', '.join(names)}; give one --config")
    return ["--config", recipe_path(names[0] if names else default), *others]


def recipe_of(arguments: list[str]) -> str:
    """The recipe's file in what `with_recipe` returned."""
    return arguments[1]
