"""``python -m lightning_app VERB ...``."""

import os
import sys

HELP = """usage: python -m lightning_app VERB [--config RECIPE] [--KEY VALUE ...]

Turns several uneven embedding data sets into one text-embedding model: an expert a task, their task vectors merged at a
position that is learned (Self Positioning, arXiv 2410.15035).

verbs:
  fit        train the experts, learn the position, score everything on MTEB tasks, write the merged model
  validate   loss of a position on the probe-validation rows
  test       scores of the run's model, a checkpoint or a folder on the recipe's MTEB tasks
  predict    embeddings of a text file, as safetensors
  evaluate   MTEB scores of any saved model, or of two to compare: python -m lightning_app evaluate --help
  study      the comparison before trusting a merge: all baselines, sweeps, pictures, a report: study --config quick
  merge      merge model folders or LoRA adapters on disk, without training: python -m lightning_app merge --help

A recipe is a YAML file, or the name of a packaged one: {recipes}.
Without --config the recipe is quickstart, which needs no network. Any key can be given on the command line:
  python -m lightning_app fit --config quickstart --model.mu 0.05 --run_dir runs/mu
  python -m lightning_app fit --config quickstart --print_config
All keys of a verb: python -m lightning_app VERB --help"""

VERBS = ("fit", "validate", "test", "predict", "evaluate", "study", "merge")


def main(arguments: list[str]) -> int:
    """Run a verb; 0 if all went well, 2 for a mistake of the user's, 130 if the user stopped it."""
    # Tokenizers' own threads and forked data loading workers do not go together.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    from modules.errors import Interrupted, UserError

    try:
        return _run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"\n{error}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on with the stages that are left", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["merge"]:  # the one verb that waits neither for transformers nor for Lightning
        from lightning_app.verbs.merge import main as merge

        merge(arguments[1:])
        return 0

    from lightning_app.recipe.recipe_parser import packaged_recipes, recipe_of, with_recipe
    from modules.errors import UserError, nearest

    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(recipes=", ".join(packaged_recipes())))
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        raise UserError(f"unknown verb '{verb}'; " + nearest(verb, VERBS, f"use {', '.join(VERBS)}"))
    if verb == "evaluate":
        from lightning_app.verbs.evaluate import main as evaluate

        evaluate(rest)
        return 0
    rest = with_recipe(rest, default="quick" if verb == "study" else "quickstart")

    from lightning_app.verbs.app_cli import is_merge_recipe, quiet_libraries
    from lightning_app.verbs.expert_cli import ExpertCLI
    from lightning_app.verbs.merge_cli import MergeCLI

    quiet_libraries()
    if verb == "study":
        from lightning_app.verbs.study import StudyCLI

        if not is_merge_recipe(recipe_of(rest)):
            raise UserError(f"{recipe_of(rest)}: a study compares merges; its model needs experts")
        StudyCLI(rest).run()
        return 0
    cli = MergeCLI if is_merge_recipe(recipe_of(rest)) else ExpertCLI
    cli([verb, *rest])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
