"""The verb test: the scores of one model on the recipe's MTEB tasks."""

from lightning_app.recipe.recipe_parser import parse
from lightning_app.report.run_report import score_table
from lightning_app.verbs.recipe_run import RecipeRun
from modules import UserError
from modules.distributed import is_main_process


def main(arguments: list[str]) -> None:
    """Score the run's model, a checkpoint of it, or a folder, and print the scores.

    Raises:
        UserError: a mistake of the user's, or the model is not made yet.
    """
    run = RecipeRun(parse("test", arguments))
    if not run.mteb.selection:
        raise UserError("mteb.tasks is empty: name the tasks to test on")
    scores = run.scorer().score_encoder(run.encoder(), name="local/model")
    if is_main_process():
        print(score_table({run.config.folder or run.config.ckpt_path or run.settings.run_dir: scores}))
