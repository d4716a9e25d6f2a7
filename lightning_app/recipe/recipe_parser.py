"""The parser of the verbs that read a recipe: one clear line for a mistake, with the nearest name."""

import difflib
import re
from dataclasses import fields
from functools import cache
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_app.recipe.command_line import read_command_line
from lightning_app.recipe.composition import compose
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
    own = {key: value for key, value in line.keys if key in OPTIONS[verb]}
    files = read_recipes(line.recipes or [DEFAULT_RECIPES.get(verb, "quickstart")])
    recipe = compose(files, [(key, value) for key, value in line.keys if key not in own], [*RUN_KEYS, *SECTIONS])
    for remark in recipe.remarks:
        rank_zero_info(remark)
    try:
        config = make_parser(verb).parse_object(recipe.content | own)
    except UserError as error:
        raise UserError(_with_place(str(error), recipe.places)) from error
    if line.print_config:
        print(dump(config), end="")
        raise SystemExit(0)
    return config


@cache
def make_parser(verb: str | None = None) -> OneLineParser:
    """Return the parser of a recipe.

    Args:
        verb: whose options it takes as well; None: of no verb.
    """
    parser = OneLineParser(add_help=False)
    parser.add_class_arguments(RunSettings)
    for name, section in SECTIONS.items():
        _add_section(parser, name, section)
    if verb:
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
    recipe = Namespace({key: value for key, value in vars(config).items() if key in (*RUN_KEYS, *SECTIONS)})
    text: str = make_parser().dump(recipe, skip_unset=False)
    return text


def instantiate(**values: tuple[Any, Any]) -> Namespace:
    """Return parts of a parsed recipe as objects.

    Args:
        values: name to type and parsed value.
    """
    parser = LightningArgumentParser()
    for name, (kind, _) in values.items():
        parser.add_argument(f"--{name}", type=kind)
    return parser.instantiate(Namespace({name: value for name, (_, value) in values.items()}))


def one_line(message: str, known: list[str]) -> str:
    """Return the gist of one of jsonargparse's messages.

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


def _with_place(message: str, places: dict[str, str]) -> str:
    """Return the message with file and line before it, where the key that it names stands in a recipe."""
    section = re.search(r'[Kk]ey "([\w.]+)"', message)
    unknown = re.search(r"unknown key '([\w.]+)'", message)
    if section and unknown:
        above, below = f"{section.group(1)}.", f".{unknown.group(1)}"
        found = [place for key, place in places.items() if key.startswith(above) and key.endswith(below)]
    else:
        found = [places[named.group(1)] for named in (section, unknown) if named and named.group(1) in places]
    return f"{found[0]}: {message}" if found else message
