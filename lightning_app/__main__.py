"""``python -m lightning_app VERB ...``."""

import os
import sys
from importlib import import_module

from lightning_app.recipe.command_line import VERBS as OF_RECIPES

VERBS = OF_RECIPES | {
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

A recipe is a YAML file, or the name of a packaged one: {recipes}.
Without --config it is quickstart, which needs no network. Of several the later wins, key by key, and the command line
over all:
  python -m lightning_app fit --config quickstart --model.mu 0.05 --recipes.joint.max_steps 100
  python -m lightning_app fit --config quickstart --print_config
All keys of a verb: python -m lightning_app VERB --help; one section: python -m lightning_app fit --help recipes"""


def main(arguments: list[str]) -> int:
    """Run a verb; 0 if all went well, 2 for a mistake of the user's, 130 if the user stopped it."""
    # Tokenizers' own threads and forked data loading workers do not go together.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    from modules.errors import Interrupted, UserError

    try:
        _run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"\n{error}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on with the stages that are left", file=sys.stderr)
        return 130
    return 0


def _run(arguments: list[str]) -> None:
    """Import what the verb needs and no more: ``merge`` waits neither for transformers nor for Lightning."""
    from modules.errors import UserError, nearest

    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return
    verb, *rest = arguments
    if verb not in VERBS:
        raise UserError(f"unknown verb '{verb}'; " + nearest(verb, VERBS, f"use {', '.join(VERBS)}"))
    module = import_module(f"lightning_app.verbs.{verb}")
    if verb not in OF_RECIPES:
        module.main(rest)
        return
    from lightning_app.recipe.recipe_parser import parse

    module.run(parse(verb, rest))


def _help() -> str:
    from lightning_app.recipe.recipe_file import packaged_recipes

    verbs = "\n".join(f"  {verb:10} {text}" for verb, text in VERBS.items())
    return HELP.format(verbs=verbs, recipes=", ".join(packaged_recipes()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
