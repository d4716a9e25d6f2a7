"""The verb study: the comparison before a merge is trusted."""

from contextlib import nullcontext
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.mteb.task_cap import full_name
from lightning_app.recipe.recipe_parser import instantiate
from lightning_app.recipe.study_recipe import StudyRecipe, check_tasks
from lightning_app.report.dry_run import plan_table
from lightning_app.report.pace import Pace
from lightning_app.report.report_files import PAGE, write_report
from lightning_app.report.rows_table import data_table, prompts_of
from lightning_app.report.section import markdown_report
from lightning_app.report.tensorboard_log import write_scores
from lightning_app.stages.run_lock import locked
from lightning_app.stages.stage_graph import with_inputs
from lightning_app.study.study_report import StudyReport
from lightning_app.study.study_rows import Study
from lightning_app.study.study_tables import StudyTables
from lightning_app.study.surroundings import Surroundings
from lightning_app.verbs.recipe_run import RecipeRun
from modules import UserError
from modules.distributed import is_main_process

AFTERWARDS = (
    "The other seeds of the best rows, the curves and the landscape come after these: where they are depends on what "
    "these find."
)


def run(config: Namespace) -> None:
    """Run a study, or say what it would do.

    Raises:
        UserError: a mistake in the recipe, before anything is trained.
    """
    recipe = RecipeRun(config)
    if not recipe.settings.experts:
        raise UserError("model.experts is empty: a study compares merges, name the experts")
    if not recipe.mteb.selection:
        raise UserError("mteb.tasks is empty: a study compares scores, name the tasks")
    with nullcontext() if recipe.config.dry_run else locked(recipe.settings.run_dir):
        study_of(recipe)


def study_of(recipe: RecipeRun) -> None:
    """Run the study of a recipe, or say what it would do."""
    tasks = recipe.mteb.load()  # what is wrong here shows before training
    wanted: StudyRecipe = instantiate(study=(StudyRecipe, recipe.config.study)).study
    check_tasks(wanted, list(recipe.settings.experts), [full_name(task.metadata.name) for task in tasks])
    graph = recipe.graph(fresh=recipe.config.fresh and not recipe.config.dry_run)
    full = recipe.scorer(max_examples=None, max_corpus=None)
    study = Study(recipe.models, wanted, graph, recipe.scorer(), full)
    stages = with_inputs(study.known_stages())
    for line in study.models.remarks():
        rank_zero_info(line)
    data = list(study.models.data.tasks.values())
    rank_zero_info(f"\n{data_table(data, prompts_of(recipe.settings.base)).markdown()}\n")
    if recipe.config.dry_run:
        if is_main_process():
            print(f"{plan_table(stages, graph, Pace(recipe.models).seconds)}\n\n{AFTERWARDS}")
        return
    if is_main_process():
        recipe.save_config()
    study.run()
    capped = recipe.scorer(max_examples=wanted.max_examples, max_corpus=wanted.max_corpus)
    report = StudyReport(study, StudyTables(study, tasks), Surroundings(study, capped))
    sections = report.sections()
    if is_main_process():
        run_dir = Path(recipe.settings.run_dir)
        title = f"Study of {run_dir}"
        write_report(run_dir, title, sections)
        write_scores({row.name: report.tables.scores(row) for row in study.main_rows}, run_dir / "logs")
        best = markdown_report(title, sections[:2])
        print(f"\n{best}\n{report.tables.choices().markdown()}\n\nreport: {run_dir / PAGE}")
