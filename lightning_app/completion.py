"""Shell completion of verbs and keys, as a script for bash or zsh that shtab writes."""

import argparse
from collections.abc import Mapping
from importlib import import_module

from lightning_app.recipe.command_line import VERBS as OF_RECIPES
from modules.errors import UserError

COMMAND = "lightning_app"
"""The command that is completed; a shell cannot complete ``python -m lightning_app``."""


def completion_script(verbs: Mapping[str, str], shell: str = "") -> str:
    """Return the script for a shell.

    Args:
        verbs: name of each verb to what it does.
        shell: ``bash`` or ``zsh``.

    Raises:
        UserError: shtab is not installed, or writes none for this shell.
    """
    try:
        import shtab
    except ImportError:
        raise UserError("--print_completion needs shtab: pip install shtab") from None
    if shell not in shtab.SUPPORTED_SHELLS:
        raise UserError(f"--print_completion: '{shell}' is no shell; name one of {', '.join(shtab.SUPPORTED_SHELLS)}")
    return str(shtab.complete(command_parser(verbs), shell))


def command_parser(verbs: Mapping[str, str]) -> argparse.ArgumentParser:
    """Return a parser that knows all verbs and their keys, those of named entries of a recipe aside.

    Args:
        verbs: name of each verb to what it does.
    """
    parser = argparse.ArgumentParser(COMMAND)
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument(
        "--print_completion", choices=["bash", "zsh"], help="print a script that completes this command"
    )
    parsers = parser.add_subparsers(dest="verb")
    for verb, text in verbs.items():
        if verb in OF_RECIPES:
            _add_keys(parsers.add_parser(verb, help=text), verb)
        else:
            own = import_module(f"lightning_app.verbs.{verb}").make_parser()
            parsers.add_parser(verb, help=text, parents=[own], add_help=False)
    return parser


def _add_keys(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the keys of a verb that reads a recipe."""
    from lightning_app.recipe.recipe_file import packaged_recipes
    from lightning_app.recipe.recipe_keys import keys_of
    from lightning_app.recipe.recipe_schema import OPTIONS, SECTIONS, RunKeys, VerbOptions

    parser.add_argument("--config", help=f"a recipe: a file, or {', '.join(packaged_recipes())}")
    parser.add_argument("--print_config", action="store_true", help="print the whole recipe")
    keys = [key for key in keys_of(VerbOptions) if key.name in OPTIONS[verb]] + keys_of(RunKeys)
    for name, section in SECTIONS.items():
        if not section.named:
            keys += keys_of(section.owner, section.skipped, section.types, prefix=f"{name}.")
    for key in keys:
        parser.add_argument(f"--{key.name}", help=key.text.partition(";")[0].replace("%", "%%"))
