"""A recipe's YAML file: what it says, where each of its keys stands, and which recipes it extends."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from modules.errors import UserError, nearest

EXTENDS = "extends"
"""The key of a recipe that names another one, or a list of others, which it is laid over."""


class RecipeLoader(yaml.SafeLoader):
    """YAML where ``1e-3`` is a number, as in YAML 1.2, and ``2026-01-31`` no date."""


RecipeLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class RecipeFile:
    """A recipe as it is written.

    Args:
        path: the file.
        content: section to what it says; sections without a word are left out.
        places: dotted key to ``file:line``.
    """

    path: str
    content: dict[str, Any]
    places: dict[str, str]


def read_recipe(path: str) -> RecipeFile:
    """Read a recipe.

    Args:
        path: a YAML file.

    Raises:
        UserError: it cannot be read, is no YAML or no mapping, or has a key twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"recipe {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"recipe {path} is not UTF-8: {error.reason}") from error
    content, places = read_yaml(text, path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: a recipe is a mapping of sections, as 'model: ...'")
    return RecipeFile(path, {str(key): value for key, value in content.items() if value is not None}, places)


def read_yaml(text: str, source: str) -> tuple[Any, dict[str, str]]:
    """Return what YAML says, an empty dictionary if nothing, and dotted key to ``source:line`` of every entry in it.

    Args:
        text: the YAML.
        source: where it is from.

    Raises:
        UserError: it is no YAML, or a mapping has a key twice.
    """
    loader = RecipeLoader(text)
    try:
        node = loader.get_single_node()
        places = {key: f"{source}:{line}" for key, line in _keys(node, source)}
        return {} if node is None else loader.construct_document(node), places
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{source}{where}: not valid YAML ({getattr(error, 'problem', error)})") from error
    except RecursionError as error:
        raise UserError(f"{source}: an anchor (&) lies within itself") from error


def _keys(node: yaml.Node | None, source: str, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Return the dotted key of every entry of every mapping, and its line; entries of lists are counted from 0.

    Raises:
        UserError: a mapping has a key twice, of which PyYAML would take the last.
    """
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = f"{prefix}{key.value}", key.start_mark.line + 1
            if name in lines:
                raise UserError(
                    f"{source}:{line}: '{name}' is there already, in line {lines[name]}; keep one of the two"
                )
            lines[name] = line
            yield name, line
            yield from _keys(value, source, f"{name}.")
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _keys(value, source, f"{prefix}{i}.")


def packaged_recipes() -> dict[str, str]:
    """Return name and file of every recipe that comes with the package."""
    found = files("lightning_app").joinpath("recipes").iterdir()
    return {Path(str(file)).stem: str(file) for file in sorted(found, key=str)}


def recipe_path(name: str, folder: str | Path = "") -> str:
    """Return the file of a recipe.

    Args:
        name: a path, or the name of a packaged recipe.
        folder: what the path is relative to.

    Raises:
        UserError: there is neither such a file nor such a recipe.
    """
    if (path := Path(folder) / name).is_file():
        return str(path)
    packaged = packaged_recipes()
    if name in packaged:
        return packaged[name]
    hint = nearest(name, packaged, f"packaged are {', '.join(packaged)}")
    raise UserError(f"recipe '{name}' is neither a file nor a packaged recipe; {hint}")


def read_recipes(names: list[str]) -> list[RecipeFile]:
    """Read recipes and what they extend, each after the recipes that it is laid over.

    Args:
        names: paths or names of packaged recipes.

    Raises:
        UserError: a recipe is not there or cannot be read, or extends itself.
    """
    found: dict[Path, RecipeFile] = {}
    for name in names:
        _read_chain(recipe_path(name), [], found)
    return list(found.values())


def _read_chain(path: str, chain: list[str], found: dict[Path, RecipeFile]) -> None:
    """Add a recipe to the recipes found, after those that it extends; each is there once."""
    recipe = read_recipe(path)
    extended = recipe.content.pop(EXTENDS, [])
    for name in extended if isinstance(extended, list) else [extended]:
        try:
            base = recipe_path(str(name), Path(path).parent)
        except UserError as error:
            raise UserError(f"{recipe.places[EXTENDS]}: {error}") from error
        if Path(base).resolve() in (Path(other).resolve() for other in [*chain, path]):
            raise UserError(f"{recipe.places[EXTENDS]}: recipes extend each other in a circle: {path} -> {base}")
        if Path(base).resolve() not in found:
            _read_chain(base, [*chain, path], found)
    found.pop(Path(path).resolve(), None)  # named again: its later place counts
    found[Path(path).resolve()] = recipe
