"""The parser of the verbs that read a recipe: one clear line for a mistake, with the nearest name."""

import json
from copy import deepcopy
from dataclasses import fields
from functools import cache
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_app.recipe.command_line import read_command_line
from lightning_app.recipe.composition import DEFAULTS, Composed, check_section, compose
from lightning_app.recipe.parser_errors import key_of, one_line
from lightning_app.recipe.recipe_file import read_recipes
from lightning_app.recipe.recipe_help import help_text
from lightning_app.recipe.recipe_schema import OPTIONS, SECTIONS, RunSettings, Section, VerbOptions
from modules import UserError

DEFAULT_RECIPES = {"study": "quick"}
"""Verb to the packaged recipe that it takes where none is named; of other verbs it is quickstart."""

RUN_KEYS = [field.name for field in fields(RunSettings)]
FLAGS = [field.name for owner in (RunSettings, VerbOptions) for field in fields(owner) if field.type is bool]


class OneLineParser(LightningArgumentParser):
    """A parser that raises `UserError` instead of printing usage and several lines."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the gist of an error."""
        raise UserError(one_line(message, [action.dest for action in self._actions])) from ex


def parse(verb: str, words: list[str]) -> Namespace:
    """Return the recipe that the words after a verb describe, with the verb's own options.

    Nothing in it is instantiated. ``--help`` and ``--print_config`` print, and end the program as argparse does.

    Args:
        verb: one of `recipe_schema.VERBS`.
        words: ``--config RECIPE``, any number of times, and ``--key value``.

    Returns:
        A namespace with every section of `recipe_schema.SECTIONS`, every key of `RunSettings`, and the options of the
        verb.

    Raises:
        UserError: a recipe or a key is wrong.
    """
    line = read_command_line(words, FLAGS)
    if line.help is not None:
        print(help_text(verb, line.help))
        raise SystemExit(0)
    for key, _ in line.keys:
        check_section(
            key.partition(".")[0], f"--{key}", [*RUN_KEYS, *SECTIONS, *OPTIONS[verb], "config", "print_config"]
        )
    own = {key: value for key, value in line.keys if key in OPTIONS[verb]}
    files = read_recipes(line.recipes or [DEFAULT_RECIPES.get(verb, "quickstart")])
    recipe = compose(files, [(key, value) for key, value in line.keys if key not in own], [*RUN_KEYS, *SECTIONS])
    for remark in recipe.remarks:
        rank_zero_info(remark)
    for name in SECTIONS:
        if not isinstance(section := recipe.content.get(name, {}), dict):
            raise UserError(f"{name}: expected keys with values, got {section}")
    try:
        config = make_parser(verb).parse_object(deepcopy(recipe.content) | own)
    except UserError as error:
        raise UserError(_explained(str(error), recipe)) from error
    if line.print_config:
        print(dump(config), end="")
        raise SystemExit(0)
    return config


@cache
def make_parser(verb: str) -> OneLineParser:
    """Return the parser of a recipe and of a verb's options."""
    parser = OneLineParser(add_help=False)
    parser.add_class_arguments(RunSettings)
    for name, section in SECTIONS.items():
        _add_section(parser, name, section)
    skipped = {field.name for field in fields(VerbOptions)} - set(OPTIONS[verb])
    parser.add_class_arguments(VerbOptions, skip=skipped)
    return parser


def _add_section(parser: OneLineParser, name: str, section: Section) -> None:
    if section.named:
        parser.add_argument(f"--{name}", type=dict[str, section.owner], default={})  # type: ignore[name-defined]
        return
    skipped = {*section.skipped, *section.types}
    parser.add_class_arguments(section.owner, name, skip=skipped, instantiate=False, fail_untyped=False)
    for key, (kind, default) in section.types.items():
        parser.add_argument(f"--{name}.{key}", type=kind, default=default)


def dump(config: Namespace) -> str:
    """Return a parsed recipe as YAML, complete; the options of a verb are left out.

    Args:
        config: what `parse` returned.
    """
    recipe = {key: value for key, value in vars(config).items() if key in (*RUN_KEYS, *SECTIONS)}
    plain = json.dumps(recipe, default=lambda value: vars(value) if isinstance(value, Namespace) else str(value))
    return yaml.safe_dump(json.loads(plain), sort_keys=False, allow_unicode=True)


def instantiate(**values: tuple[Any, Any]) -> Namespace:
    """Return parts of a parsed recipe as objects.

    Args:
        values: name to type and parsed value.
    """
    parser = LightningArgumentParser()
    for name, (kind, _) in values.items():
        parser.add_argument(f"--{name}", type=kind)
    return parser.instantiate(Namespace({name: value for name, (_, value) in values.items()}))


def _explained(message: str, recipe: Composed) -> str:
    """Return what is wrong, in which entry of a section, and in which line of a recipe."""
    name = key_of(message).partition(".")[0]
    if name in SECTIONS and SECTIONS[name].named and isinstance(entries := recipe.content.get(name), dict):
        message = _first_wrong(name, entries) or message
    place = _place(key_of(message), recipe.places)
    return f"{place}: {message}" if place else message


def _first_wrong(section: str, entries: dict[str, Any]) -> str | None:
    """Return what is wrong with the first entry that cannot be parsed by itself."""
    parser = OneLineParser(add_help=False)
    parser.add_class_arguments(SECTIONS[section].owner)
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            return f"{section}.{name}: expected keys with values, got {entry}"
        try:
            parser.parse_object(entry)
        except UserError as error:
            message = str(error)
            return f"{section}.{name}{': ' if message.startswith('unknown key') else '.'}{message}"
    return None


def _place(key: str, places: dict[str, str]) -> str:
    """Return where a key was given; the message may leave out names above its last part, or its last parts."""
    section, _, rest = key.partition(".")
    above, _, last = key.rpartition(".")
    of_all = f"{section}.{DEFAULTS}.{rest.partition('.')[2]}"
    longer = [name for name in places if name.startswith(f"{above}.") and name.endswith(f".{last}")]
    typed = [name for name, place in places.items() if name.startswith(f"{key}.") and not place]
    shorter = [key.rsplit(".", i)[0] for i in range(1, key.count(".") + 1)]
    return next((places[name] for name in (key, *longer, of_all, *typed, *shorter) if name in places), "")
