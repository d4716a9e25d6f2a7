"""The verb fit: experts, merges, the learned position, scores, a report."""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.mteb.task_texts import overlaps
from lightning_app.report.fit_report import FitReport
from lightning_app.report.report_files import PAGE, write_report
from lightning_app.report.rows_table import prompts_of
from lightning_app.report.run_report import rows_table
from lightning_app.report.tensorboard_log import write_scores
from lightning_app.stages.model import Model
from lightning_app.stages.published_model import NAME, publish
from lightning_app.stages.run_lock import locked
from lightning_app.stages.score import Score
from lightning_app.stages.stage_graph import StageGraph
from lightning_app.verbs.recipe_run import RecipeRun
from modules.distributed import is_main_process

if TYPE_CHECKING:
    from mteb import AbsTask


def run(config: Namespace) -> None:
    """Make every model of a recipe, score all, and report.

    Raises:
        UserError: a mistake of the user's, before anything is trained.
    """
    recipe = RecipeRun(config)
    with locked(recipe.settings.run_dir):
        if is_main_process():
            recipe.save_config()
        tasks = recipe.mteb.load()
        models = recipe.models
        rows = {model.name: model for model in [*models.baseline_models(), models.main]}
        graph = recipe.graph(fresh=recipe.config.fresh)
        rank_zero_info(f"\n{rows_table(list(models.data.tasks.values()), prompts_of(recipe.settings.base))}\n")
        for line in models.remarks():
            rank_zero_info(line)
        scorer = recipe.scorer()
        scores = {name: Score(name, model, scorer) for name, model in rows.items()} if tasks else {}
        made = [stage for model in [models.main, *rows.values()] for stage in model.inputs]
        graph.run_all([*made, *scores.values()])
        if is_main_process():
            finish(recipe, list(rows.values()), graph, scores, tasks)


def finish(
    recipe: RecipeRun, rows: list[Model], graph: StageGraph, scores: dict[str, Score], tasks: "list[AbsTask]"
) -> None:
    """Publish the run's model, and write and print the report."""
    run_dir = Path(recipe.settings.run_dir)
    place = publish(run_dir, recipe.models.main.folder(graph))
    followed = [
        f"{what}, by the recipe's choice: what it chooses is fitted to those tasks, whose scores are not those of "
        "held-out data."
        for what in recipe.trainer.following_scores()
    ]
    data = list(recipe.models.data.tasks.values())
    shared = overlaps(tasks, [part for task in data for part in (task.expert, task.probe)])
    report = FitReport(
        recipe.models.base,
        rows,
        recipe.models.main,
        str(run_dir / NAME),
        graph,
        scores,
        tasks,
        data,
        prompts_of(recipe.settings.base),
        shared,
        remarks=followed,
        files=[place, f"this report as a page: {run_dir / PAGE}", f"curves: tensorboard --logdir {run_dir}/logs"],
    )
    text = write_report(run_dir, f"Report of {run_dir}", report.sections())
    write_scores({name: row.scores for name, row in report.rows.items()}, run_dir / "logs")
    print(f"\n{text}")
