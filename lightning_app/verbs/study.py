"""The verb study: the comparison before a merge is trusted."""

from contextlib import nullcontext
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.task_cap import full_name
from lightning_app.recipe.recipe_parser import instantiate, parse
from lightning_app.recipe.study_recipe import StudyRecipe, check_tasks
from lightning_app.report.dry_run import plan_table
from lightning_app.report.rows_table import prompts_of
from lightning_app.report.run_report import rows_table
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


def main(arguments: list[str]) -> None:
    """Run a study, or say what it would do.

    Raises:
        UserError: a mistake in the recipe, before anything is trained.
    """
    run = RecipeRun(parse("study", arguments))
    if not run.settings.experts:
        raise UserError("model.experts is empty: a study compares merges, name the experts")
    if not run.mteb.selection:
        raise UserError("mteb.tasks is empty: a study compares scores, name the tasks")
    with nullcontext() if run.config.dry_run else locked(run.settings.run_dir):
        study_recipe(run)


def study_recipe(run: RecipeRun) -> None:
    """Run the study of a recipe, or say what it would do."""
    tasks = run.mteb.load()  # what is wrong here shows before training
    recipe: StudyRecipe = instantiate(study=(StudyRecipe, run.config.study)).study
    check_tasks(recipe, list(run.settings.experts), [full_name(task.metadata.name) for task in tasks])
    graph = run.graph(fresh=run.config.fresh and not run.config.dry_run)
    full = run.scorer(max_examples=None, max_corpus=None)
    study = Study(run.models, recipe, graph, run.scorer(), full)
    stages = with_inputs(study.known_stages())
    for line in study.models.remarks():
        rank_zero_info(line)
    data = list(study.models.data.tasks.values())
    rank_zero_info(f"\n{rows_table(data, prompts_of(run.settings.base))}\n")
    if run.config.dry_run:
        if is_main_process():
            print(f"{plan_table(stages, graph, run.time_per_text())}\n\n{AFTERWARDS}")
        return
    if is_main_process():
        run.save_config()
    study.run()
    capped = run.scorer(max_examples=recipe.max_examples, max_corpus=recipe.max_corpus)
    report = StudyReport(study, StudyTables(study, tasks), Surroundings(study, capped))
    page = report.write(Path(run.settings.run_dir), f"Study of {run.settings.run_dir}")
    if is_main_process():
        print(f"\n{report.tables.main().markdown()}\n\n{report.tables.choices().markdown()}\n\nreport: {page}")
