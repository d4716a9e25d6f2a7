"""Searches of a position until they settle, on a recipe's own experts and probe: writes a table of docs/search.md.

    python benchmarks/settle.py quickstart
    python benchmarks/settle.py four-tasks --trainer.precision 32-true

Every search is a stage of one run folder (``runs/settle-<recipe>``): a second call goes on where the first stopped. All
keys of the recipe can be given on the command line. Adam has a budget of 20 passes over the probe, BFGS of 40 steps.
"""

import sys
from dataclasses import replace

from lightning_app.recipe.model_recipes import MergeRecipe
from lightning_app.recipe.recipe_parser import parse
from lightning_app.report.position_path import read_ending
from lightning_app.stages.learn import POSITION
from lightning_app.stages.recipe_models import RecipeModels
from lightning_app.stages.stage_graph import StageGraph
from lightning_app.verbs.recipe_run import RecipeRun
from modules import Adam, Bfgs
from modules.json_files import read_json
from modules.markdown import markdown_table

SEARCHES = {
    "BFGS": (MergeRecipe(search=Bfgs()), 40),
    "Adam, lr 0.1, one pass": (MergeRecipe(search=Adam(0.1)), 1),
    "then BFGS": (MergeRecipe(search=Bfgs(), initial="Adam, lr 0.1, one pass"), 40),
    "Adam, lr 0.02": (MergeRecipe(search=Adam(0.02)), 20),
    "Adam, lr 0.1": (MergeRecipe(search=Adam(0.1)), 20),
    "Adam, lr 0.2": (MergeRecipe(search=Adam(0.2)), 20),
}
"""Name to the merge and its budget in epochs, each of which ends in a validation: a pass of Adam, a step of BFGS."""

COLUMNS = ["search", "best objective", "last objective", "batches", "seconds", "coefficients", "end"]


def models_of(recipe: str, options: list[str]) -> RecipeModels:
    """Return the recipe's models, and its position by each search."""
    arguments = ["--config", recipe, "--run_dir", f"runs/settle-{recipe}", "--trainer.enable_progress_bar", "false"]
    models = RecipeRun(parse("study", [*arguments, *options])).models
    batches = models.data.probe().batches
    merges = {
        name: replace(merge, max_steps=epochs * (batches if isinstance(merge.search, Adam) else 1))
        for name, (merge, epochs) in SEARCHES.items()
    }
    return models.with_settings(replace(models.settings, merges=merges, baselines=[]))


def main() -> None:
    """Run all searches and print a Markdown table."""
    recipe, *options = sys.argv[1:]
    models = models_of(recipe, options)
    graph = StageGraph(models.settings.run_dir)
    rows = []
    for name in SEARCHES:
        stage = models.learned(name)
        found = read_json(graph.run(stage) / POSITION)
        c = " / ".join(f"{value:.3f}" for key, value in found["mean_position"].items() if key.startswith("c/"))
        numbers = [f"{found['objective']:.4f}", f"{found['history'][-1]['objective']:.4f}", found["passes"]["forward"]]
        rows.append([name, *map(str, numbers), f"{graph.seconds(stage):.0f}", c, str(read_ending(graph.folder(stage)))])
        print("\n" + markdown_table(COLUMNS, rows), flush=True)


if __name__ == "__main__":
    main()
