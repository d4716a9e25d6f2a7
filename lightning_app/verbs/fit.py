"""The verb fit: experts, merges, the learned position, scores, a report."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.mteb.hub_results import hub_results
from callbacks.mteb.task_texts import overlaps
from lightning_app.hub_upload import check_destination, push_to_hub
from lightning_app.recipe.recipe_parser import dump
from lightning_app.report.dry_run import plan_table
from lightning_app.report.fit_report import FitReport
from lightning_app.report.pace import Pace
from lightning_app.report.report_files import PAGE, write_report
from lightning_app.report.rows_table import data_table, prompts_of
from lightning_app.report.run_card import run_sections, write_run_records
from lightning_app.report.tensorboard_log import write_scores
from lightning_app.stages.model import Model
from lightning_app.stages.published_model import NAME, publish
from lightning_app.stages.run_lock import locked
from lightning_app.stages.score import Score, read_results, read_scores
from lightning_app.stages.stage_graph import StageGraph, with_inputs
from lightning_app.verbs.recipe_run import RecipeRun
from modules.distributed import fail_together, is_main_process
from modules.model_card.finding import Evaluation, Finding

if TYPE_CHECKING:
    from mteb import AbsTask


def run(config: Namespace) -> None:
    """Make every model of a recipe, score all, and report; or say what is to be made, and how long that may take.

    Raises:
        UserError: a mistake of the user's, before anything is trained.
    """
    recipe = RecipeRun(config)
    dry, hub_name = recipe.config.dry_run, _destination(config)
    with nullcontext() if dry else locked(recipe.settings.run_dir):
        if is_main_process() and not dry:
            recipe.save_config()
        tasks = recipe.mteb.load()
        models = recipe.models
        rows = models.rows()
        graph = recipe.graph(fresh=recipe.config.fresh and not dry)
        rank_zero_info(
            f"\n{data_table(list(models.data.tasks.values()), prompts_of(recipe.settings.base)).markdown()}\n"
        )
        for line in models.remarks():
            rank_zero_info(line)
        scorer = recipe.scorer()
        scores = {name: Score(name, model, scorer) for name, model in rows.items()} if tasks else {}
        wanted = [*models.wanted_stages(), *scores.values()]
        if dry:
            print(plan_table(with_inputs(wanted), graph, Pace(models).seconds))
            return
        graph.run_all(wanted)
        if is_main_process():
            write_card(recipe, graph, scores, tasks, hub_name)
            finish(recipe, list(rows.values()), graph, scores, tasks)
            if hub_name is not None:
                place = Path(recipe.settings.run_dir) / NAME
                print(f"the model on the hub: {push_to_hub(place, hub_name, config.private)}")


def _destination(config: Namespace) -> str | None:
    """Return the name that the model is to have on the hub; None: it is not sent there.

    Raises:
        UserError: the hub would refuse it, which the main process finds out for all.
    """
    with fail_together():
        return check_destination(config.push_to_hub, config.private) if is_main_process() else None


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


def write_card(
    recipe: RecipeRun, graph: StageGraph, scores: dict[str, Score], tasks: "list[AbsTask]", hub_name: str | None
) -> None:
    """Write ``merge.json`` and the model card of the run's model."""
    model = recipe.models.main
    found = {name: read_scores(graph.folder(stage)) for name, stage in scores.items()}
    evaluation = Evaluation()
    if scores:
        evaluation = hub_results(read_results(graph.folder(scores[model.name]), graph.score_cache, tasks))
    data = recipe.models.data.tasks
    finding = Finding(
        sections=run_sections(model, graph, list(data.values()), found, dump(recipe.config)),
        sources=recipe.models.data.sources,
        evaluation=evaluation,
        hub_name=hub_name,
    )
    write_run_records(model, graph, Path(recipe.settings.run_dir).absolute().name, finding)
