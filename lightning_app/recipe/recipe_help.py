"""The help of the verbs that read a recipe: an overview with a line for every key, and one section whole."""

import re
import textwrap
from collections.abc import Collection

from lightning_app.recipe.command_line import VERBS
from lightning_app.recipe.recipe_keys import Key, keys_of
from lightning_app.recipe.recipe_schema import OPTIONS, SECTIONS, RunSettings, VerbOptions
from modules.errors import UserError, nearest
from modules.losses import LOSSES

WIDTH, LENGTH = 120, 100
"""Characters of a line, and lines of the overview, at most."""

PACKED = ("trainer", "study", "position", "merges", "probe", "mteb", "recipes", "model")
"""Sections in the order in which the overview gives up a line for each of their keys until it is short enough."""

USAGE = """usage: python -m lightning_app {verb} [--config RECIPE ...] [--KEY VALUE ...]
{text}
Of several --config the later wins, key by key, and the command line over all: --model.mu 0.05 --recipes.NAME.lr 1e-5
One section with all texts: {verb} --help SECTION. The whole recipe, as composed: {verb} --print_config"""


def help_text(verb: str, section: str = "") -> str:
    """Return what ``--help`` prints.

    Args:
        verb: one of `VERBS`.
        section: the section to show whole; empty: the overview.

    Raises:
        UserError: there is no such section.
    """
    if section:
        return _whole(section)
    order = [name for name in PACKED if name != verb]
    overviews = (_overview(verb, order[:count]) for count in range(len(order) + 1))
    return next(text for text in overviews if len(text.splitlines()) <= LENGTH)


def _section_keys(name: str) -> list[Key]:
    """Return the keys of a section, or of every entry of it."""
    section = SECTIONS[name]
    return keys_of(section.owner, section.skipped, section.types)


def _overview(verb: str, packed: Collection[str]) -> str:
    """Return all keys, those of some sections by their names only."""
    lines = USAGE.format(verb=verb, text=VERBS[verb]).splitlines()
    options = [key for key in keys_of(VerbOptions) if key.name in OPTIONS[verb]]
    for title, keys in {f"options of {verb}": options, "the run": keys_of(RunSettings)}.items():
        lines += [f"{title}:", *_rows(keys)]
    for name, section in SECTIONS.items():
        path = f"{name}.NAME" if section.named else name
        lines.append(_cut(f"{path}: {section.text}"))
        lines += _names(_section_keys(name)) if name in packed else _rows(_section_keys(name))
    lines.append("classes and losses by name:")
    choices = {key.name: ", ".join(key.choices) for key in _section_keys("model") if key.choices}
    choices["loss.name"] = ", ".join(["auto", *LOSSES])
    lines += [line for name, known in choices.items() for line in _wrapped(f"{name}: {known}", "  ")]
    return "\n".join(lines)


def _rows(keys: list[Key]) -> list[str]:
    """Return a line for each key: its name, its type and default, the first sentence of its text."""
    width = max(len(key.name) for key in keys)
    settings = [key.setting if len(key.setting) <= 22 else f"{key.setting[:19]}..." for key in keys]
    room = max(map(len, settings))
    return [
        _cut(f"  {key.name:{width}}  {setting:{room}}  {_first_sentence(key.text)}")
        for key, setting in zip(keys, settings, strict=True)
    ]


def _names(keys: list[Key]) -> list[str]:
    return _wrapped(", ".join(key.name for key in keys), "  ")


def _whole(name: str) -> str:
    """Return a section with all texts."""
    if name not in SECTIONS:
        raise UserError(f"--help: there is no section '{name}'; {nearest(name, SECTIONS, ', '.join(SECTIONS))}")
    section = SECTIONS[name]
    return "\n".join([f"{name}: {section.text}", *_described(_section_keys(name), "  ")])


def _described(keys: list[Key], indent: str) -> list[str]:
    """Return the keys with all that is said of them, and the keys that lie below them."""
    lines = []
    for key in keys:
        lines += _wrapped(f"{key.name}: {key.setting}", indent)
        lines += _wrapped(key.text, indent + "    ")
        if key.choices:
            lines += _wrapped(f"one of {', '.join(key.choices)}", indent + "    ")
        if key.nested:
            lines += _described(keys_of(key.nested), indent + "    ")
    return lines


def _first_sentence(text: str) -> str:
    return re.split(r"[.;](?: |$)", text, maxsplit=1)[0]


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 4].rsplit(" ", 1)[0] + " ..."


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False)
