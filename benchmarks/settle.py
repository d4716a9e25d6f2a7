"""How searches of a position settle on a recipe's own experts and probe: writes a table of docs/search.md.

    python benchmarks/settle.py quickstart
    python benchmarks/settle.py four-tasks --trainer.precision 32-true

Every search is a stage of one run folder (``runs/settle-<recipe>``): a second call goes on where the first stopped. All
keys of the recipe can be given on the command line. Adam has a budget of 20 passes over the probe, BFGS of 40 steps.
"""

import sys
from dataclasses import replace

from lightning_app.stages.merge_stages import POSITION
from lightning_app.stages.pipeline import Pipeline
from lightning_app.verbs.app_cli import quiet_libraries

from lightning_app.recipe.model_recipes import MergeRecipe
from lightning_app.recipe.recipe_parser import recipe_path
from lightning_app.recipe.recipe_settings import read_settings
from lightning_app.report.run_report import markdown_table, read_ending
from lightning_app.stages.stage_graph import StageGraph
from lightning_app.stages.trainers import TrainerFactory
from lightning_app.verbs.study import StudyCLI
from modules import Adam, Bfgs
from modules.json_files import read_json

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


def pipeline(recipe: str, options: list[str]) -> Pipeline:
    """Return a pipeline of the recipe's models, and of its position by each search."""
    run_dir = f"runs/settle-{recipe}"
    arguments = ["--config", recipe_path(recipe), "--run_dir", run_dir, "--trainer.enable_progress_bar", "false"]
    section = StudyCLI([*arguments, *options]).section
    section.trainer.max_epochs = -1
    settings = read_settings(section)
    batches = settings.probe["size"] // settings.probe["batch_size"]
    merges = {
        name: replace(merge, max_steps=epochs * (batches if isinstance(merge.search, Adam) else 1))
        for name, (merge, epochs) in SEARCHES.items()
    }
    trainers = TrainerFactory(section.trainer, run_dir, int(section.seed_everything))
    return Pipeline(replace(settings, merges=merges, baselines=[]), trainers, StageGraph(run_dir))


def main() -> None:
    """Run all searches and print a Markdown table."""
    quiet_libraries()
    recipe, *options = sys.argv[1:]
    models = pipeline(recipe, options)
    rows = []
    for name in SEARCHES:
        stage = models.model(name).stage
        assert stage is not None
        found = read_json(models.graph.run(stage) / POSITION)
        c = " / ".join(f"{value:.3f}" for key, value in found["mean_position"].items() if key.startswith("c/"))
        numbers = [f"{found['objective']:.4f}", f"{found['history'][-1]['objective']:.4f}", found["passes"]["forward"]]
        seconds = f"{models.graph.seconds(stage):.0f}"
        rows.append([name, *map(str, numbers), seconds, c, str(read_ending(stage, models.graph))])
        print("\n" + markdown_table(COLUMNS, rows), flush=True)


if __name__ == "__main__":
    main()
