"""The verb validate: losses on the probe-validation rows."""

from jsonargparse import Namespace

from lightning_app.stages.learn import Learn
from lightning_app.stages.train import Train
from lightning_app.verbs.recipe_run import RecipeRun


def run(config: Namespace) -> None:
    """Print the losses and metrics of a run's model on its validation rows.

    Raises:
        UserError: a mistake of the user's, or the model is not made yet.
    """
    recipe = RecipeRun(config)
    stage = recipe.models.main.stage
    assert isinstance(stage, Learn | Train)
    trainer = stage.trainer.make("validate", [], logger=False)
    data = stage.probe.data() if isinstance(stage, Learn) else stage.data()
    trainer.validate(recipe.module(), datamodule=data)
