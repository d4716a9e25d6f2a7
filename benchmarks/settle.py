"""How searches of a position settle on a recipe's own experts and probe: writes a table of docs/search.md.

    python benchmarks/settle.py quickstart
    python benchmarks/settle.py four-tasks --trainer.precision 32-true

Every search is a stage of one run folder (``runs/settle-<recipe>``): a second call goes on where the first stopped. All
keys of the recipe can be given on the command line. Adam has a budget of 20 passes over the probe, BFGS of 40 steps.
"""

import sys
from dataclasses import replace

from lightning_app.cli import quiet_libraries
from lightning_app.parser import recipe_path
from lightning_app.pipeline import Pipeline
from lightning_app.recipe import MergeRecipe
from lightning_app.recipe_settings import read_settings
from lightning_app.report import markdown_table, read_ending
from lightning_app.stages import StageGraph
from lightning_app.study.cli import StudyCLI
from lightning_app.trainers import TrainerFactory
from modules import Adam, Bfgs
from modules.json_files import read_json

PASSES = 20
MERGES = {
    "BFGS": MergeRecipe(search=Bfgs(), max_steps=40),
    "Adam, lr 0.1, one pass": MergeRecipe(search=Adam(0.1)),
    "then BFGS": MergeRecipe(search=Bfgs(), initial="Adam, lr 0.1, one pass", max_steps=40),
    "Adam, lr 0.02": MergeRecipe(search=Adam(0.02)),
    "Adam, lr 0.1": MergeRecipe(search=Adam(0.1)),
    "Adam, lr 0.2": MergeRecipe(search=Adam(0.2)),
}
COLUMNS = ["search", "best objective", "last objective", "batches", "seconds", "coefficients", "end"]


def pipeline(recipe: str, options: list[str]) -> Pipeline:
    """The recipe's models, and its position by each search."""
    run_dir = f"runs/settle-{recipe}"
    arguments = ["--config", recipe_path(recipe), "--run_dir", run_dir, "--trainer.enable_progress_bar", "false"]
    section = StudyCLI([*arguments, *options]).section
    section.trainer.max_epochs = -1
    settings = read_settings(section)
    batches = settings.probe["size"] // settings.probe["batch_size"]
    merges = {
        name: merge if merge.max_steps else replace(merge, max_steps=batches * (1 if "one" in name else PASSES))
        for name, merge in MERGES.items()
    }
    # An epoch of Adam is a pass over the probe, and so is a step of BFGS: both are validated after each.
    trainers = TrainerFactory(section.trainer, run_dir, int(section.seed_everything))
    return Pipeline(replace(settings, merges=merges, baselines=[]), trainers, StageGraph(run_dir))


def main() -> None:
    """Run all searches and print a Markdown table."""
    quiet_libraries()
    recipe, *options = sys.argv[1:]
    models = pipeline(recipe, options)
    rows = []
    for name in MERGES:
        stage = models.model(name).stage
        assert stage is not None
        found = read_json(models.graph.run(stage) / "position.json")
        c = " / ".join(f"{value:.3f}" for key, value in found["mean_position"].items() if key.startswith("c/"))
        numbers = [f"{found['objective']:.4f}", f"{found['history'][-1]['objective']:.4f}", found["passes"]["forward"]]
        seconds = f"{models.graph.seconds(stage):.0f}"
        rows.append([name, *map(str, numbers), seconds, c, str(read_ending(stage, models.graph))])
        print("\n" + markdown_table(COLUMNS, rows), flush=True)


if __name__ == "__main__":
    main()
