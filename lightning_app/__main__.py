"""``python -m lightning_app VERB ...``."""

import os
import sys
from importlib import import_module
from typing import NoReturn

from lightning_app.machine.packages import DISTRIBUTION, installed_version, is_lacking
from lightning_app.recipe.command_line import VERBS as OF_RECIPES

VERBS = {
    "init": "look at data files and models, and write a first recipe that fits them: init FILE ... [MODEL ...]",
    "doctor": "what this machine has for a fit, and what to do about what is missing",
    **OF_RECIPES,
    "evaluate": "MTEB scores of any saved model, or of two to compare: evaluate --help",
    "export": "a model as ONNX, for where there is no torch: export --help",
    "merge": "merge model folders or LoRA adapters on disk, at given weights or learned on rows: merge --help",
}
"""The verbs, and what they do."""

HELP = """usage: python -m lightning_app VERB [--config RECIPE ...] [--KEY VALUE ...]

Turns several uneven embedding data sets into one text-embedding model: an expert a task, their task vectors merged at a
position that is learned (Self Positioning, arXiv 2410.15035).

verbs:
{verbs}

A recipe is a YAML file, or the name of a packaged one:
  {recipes}
Without --config it is quickstart, which needs no network. Of several the later wins, key by key, and the command line
over all:
  python -m lightning_app fit --config quickstart --model.mu 0.05 --recipes.joint.max_steps 100
  python -m lightning_app fit --config quickstart --print_config
All keys of a verb: python -m lightning_app VERB --help; one section: python -m lightning_app fit --help recipes
Also --version, and --print_completion bash|zsh: a script that completes verbs and keys of the command lightning_app"""


def main(arguments: list[str]) -> int:
    """Run a verb.

    Returns:
        The exit status: 0 if all went well, 2 for a mistake of the user's, 130 if the user stopped it; 1 where `doctor`
        found what stops a fit.
    """
    # Tokenizers' own threads and forked data loading workers do not go together.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    from modules.errors import Interrupted, UserError

    try:
        return _run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if not is_lacking(error.name):
            raise
        print(
            f"error: there is no module {error.name}: python -m lightning_app doctor says what to do", file=sys.stderr
        )
        return 2
    except Interrupted as error:
        print(f"\n{error}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on with the stages that are left", file=sys.stderr)
        return 130


def run_command() -> NoReturn:
    """Run the command ``lightning_app``, which is ``python -m lightning_app`` in a word."""
    sys.exit(main(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    """Import what the verb needs and no more: ``merge`` waits neither for transformers nor for Lightning."""
    from modules.errors import UserError, nearest

    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    verb, *rest = arguments
    if verb == "--version":
        print(DISTRIBUTION, installed_version(DISTRIBUTION) or "(not installed)")
        return 0
    if verb == "--print_completion":
        from lightning_app.completion import completion_script

        print(completion_script(VERBS, *rest[:1]))
        return 0
    if verb not in VERBS:
        raise UserError(f"unknown verb '{verb}'; " + nearest(verb, VERBS, f"use {', '.join(VERBS)}"))
    module = import_module(f"lightning_app.verbs.{verb}")
    if verb not in OF_RECIPES:
        status: int | None = module.main(rest)
        return status or 0
    from lightning_app.recipe.recipe_parser import parse

    module.run(parse(verb, rest))
    return 0


def _help() -> str:
    from lightning_app.recipe.recipe_file import packaged_recipes

    verbs = "\n".join(f"  {verb:10} {text}" for verb, text in VERBS.items())
    return HELP.format(verbs=verbs, recipes=", ".join(packaged_recipes()))


if __name__ == "__main__":
    run_command()
