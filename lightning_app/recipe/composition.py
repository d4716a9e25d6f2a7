"""Several recipes and the keys of the command line as one recipe: later wins, key by key."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_app.recipe.position_settings import TRAINER_LENGTHS
from lightning_app.recipe.recipe_file import RecipeFile, read_yaml
from lightning_app.recipe.short_forms import without_data
from modules.errors import UserError, nearest

DEFAULTS = "defaults"
"""The entry of ``recipes`` and ``merges`` that is no model: its keys are those of every other entry that lacks them."""

CLASS_NAME = re.compile(r"([A-Za-z_]\w*\.)*[A-Z]\w*$")
OBJECT_KEYS = ("class_path", "init_args", "dict_kwargs")


@dataclass(frozen=True)
class Composed:
    """A whole recipe.

    Args:
        content: section to what it says, as in a single file without ``extends`` and ``defaults``.
        places: dotted key to ``file:line``; empty for keys of the command line.
        remarks: what was taken to mean another thing than it says, or nothing, a line each.
    """

    content: dict[str, Any]
    places: dict[str, str]
    remarks: list[str]


def compose(files: Sequence[RecipeFile], keys: Sequence[tuple[str, str]], sections: Collection[str]) -> Composed:
    """Return one recipe made of several, each laid over those before it, and of the command line's keys over all.

    Args:
        files: the recipes.
        keys: dotted key and value, as on the command line.
        sections: names of all sections that a recipe may have.

    Raises:
        UserError: a recipe has a section that does not exist, or says one thing in two ways.
    """
    content: dict[str, Any] = {}
    places: dict[str, str] = {}
    remarks: list[str] = []
    for file in files:
        given = without_data(file.content, file.places.get("data", file.path), remarks)
        for name in given:
            check_section(name, file.places.get(name, file.path), sections)
        content = laid_over(content, _with_position(given, remarks, file.places))
        places |= file.places
    for key, value in keys:
        content = laid_over(content, _with_position(_nested(key, value), remarks, places))
        key = key.removesuffix("+")
        places = {name: place for name, place in places.items() if not name.startswith(f"{key}.")} | {key: ""}
    for section in ("recipes", "merges"):
        if isinstance(entries := content.get(section), dict):
            content[section] = _with_defaults(section, entries, remarks)
    return Composed(content, places, list(dict.fromkeys(remarks)))


def laid_over(below: Any, above: Any) -> Any:
    """Return a value with another one laid over it.

    Dictionaries are merged key by key; a key that ends with ``+`` adds to the list of that name; arguments without a
    ``class_path`` go to the object below, or to the last object of the list below. All else is replaced: an object of
    another class, and everything by an empty dictionary.

    Args:
        below: what is there.
        above: what wins.
    """
    if isinstance(below, str) and CLASS_NAME.match(below) and isinstance(above, dict):
        below = {"class_path": below}
    if _is_object(below):
        above = _as_object(above)
        if not isinstance(above, dict) or above.get("class_path", below["class_path"]) != below["class_path"]:
            return above
    if not isinstance(above, dict) or not above:
        return above
    if isinstance(below, list) and below and not _is_object(above):
        return [*below[:-1], laid_over(below[-1], above)]
    merged = dict(below) if isinstance(below, dict) else {}
    for key, value in above.items():
        if isinstance(key, str) and key.endswith("+"):
            merged[key[:-1]] = [*_as_list(merged.get(key[:-1])), *_as_list(value)]
        else:
            merged[key] = laid_over(merged.get(key), value)
    return merged


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and "class_path" in value


def _as_object(value: Any) -> Any:
    """Return the name of a class, or the arguments of an object alone, as an object."""
    if isinstance(value, str):
        return {"class_path": value}
    if not isinstance(value, dict):
        return value
    arguments = {key: argument for key, argument in value.items() if key not in OBJECT_KEYS}
    known = {key: argument for key, argument in value.items() if key in OBJECT_KEYS}
    return known | {"init_args": laid_over(known.get("init_args"), arguments)} if arguments else known


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _nested(key: str, text: str) -> dict[str, Any]:
    """Return a key of the command line as it would stand in a file.

    Numbers stay strings, which the parser reads by the type of their key: a folder may be called ``2026``.

    Raises:
        UserError: a list or dictionary is no YAML, or has a key twice.
    """
    value: Any = None if text.strip() in ("null", "~") else text
    if text.lstrip().startswith(("[", "{")):
        value, _ = read_yaml(text, f"--{key}")
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _with_defaults(section: str, entries: dict[str, Any], remarks: list[str]) -> dict[str, Any]:
    """Return the entries with the keys of ``defaults`` that they lack, and add a remark for each that none lacks.

    Null is a value, too.
    """
    defaults = entries.get(DEFAULTS) or {}
    if not isinstance(defaults, dict):
        raise UserError(f"{section}.{DEFAULTS}: give the keys that every entry is to have, as {{max_length: 64}}")
    models = {str(name): {} if entry is None else entry for name, entry in entries.items() if name != DEFAULTS}
    described = {name: entry for name, entry in models.items() if isinstance(entry, dict)}
    for key in defaults:
        if described and all(key in entry for entry in described.values()):
            remarks.append(f"{section}.{DEFAULTS}.{key}: changes nothing, because every entry says its own {key}")
    return models | {name: defaults | entry for name, entry in described.items()}


def _with_position(content: dict[str, Any], remarks: list[str], places: Mapping[str, str]) -> dict[str, Any]:
    """Return sections with the lengths that ``trainer`` has in ``position``, and add a remark for each.

    Raises:
        UserError: ``position`` has the same key.
    """
    trainer, position = content.get("trainer"), content.get("position", {})
    if not isinstance(trainer, dict) or not isinstance(position, dict):
        return content
    lengths = {key: trainer[key] for key in TRAINER_LENGTHS if key in trainer}
    for key in lengths:
        if key in position:
            where = places.get(f"trainer.{key}", "trainer")
            raise UserError(f"{where}: trainer.{key} means position.{key}, which is given as well; keep that one")
        own = "; experts have max_steps in their recipes" if key.startswith(("max", "min")) else ""
        remarks.append(f"trainer.{key}: taken as position.{key}{own}")
    if not lengths:
        return content
    others = {name: section for name, section in content.items() if name != "trainer"}
    shared = {key: value for key, value in trainer.items() if key not in lengths}
    return others | {"position": position | lengths} | ({"trainer": shared} if shared else {})


def check_section(name: str, where: str, known: Collection[str]) -> None:
    """Refuse a section that does not exist.

    Args:
        name: of the section.
        where: it was given.
        known: names of all sections.

    Raises:
        UserError: it is not known.
    """
    if name == "data":
        raise UserError(f"{where}: this section is called probe; data is a recipe's list of data sources")
    if name.removesuffix("+") not in known:
        hint = nearest(name, known, f"known are {', '.join(known)}")
        raise UserError(f"{where}: unknown key '{name}'; {hint}")
