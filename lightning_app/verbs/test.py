"""The verb test: the scores of one model on the recipe's MTEB tasks."""

from jsonargparse import Namespace

from lightning_app.report.scores_table import scores_table
from lightning_app.verbs.recipe_run import RecipeRun
from modules import UserError
from modules.distributed import is_main_process


def run(config: Namespace) -> None:
    """Score the run's model, a checkpoint of it, or a folder, and print the scores.

    Raises:
        UserError: a mistake of the user's, or the model is not made yet.
    """
    recipe = RecipeRun(config)
    if not recipe.mteb.selection:
        raise UserError("mteb.tasks is empty: name the tasks to test on")
    scores = recipe.scorer().score_encoder(recipe.encoder(), name="local/model")
    if is_main_process():
        print(
            scores_table(
                {recipe.config.folder or recipe.config.ckpt_path or recipe.settings.run_dir: scores}
            ).markdown()
        )
