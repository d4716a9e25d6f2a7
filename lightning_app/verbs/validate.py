"""The verb validate: losses on the probe-validation rows."""

from lightning_app.recipe.recipe_parser import parse
from lightning_app.stages.learn import Learn
from lightning_app.stages.train import Train
from lightning_app.verbs.recipe_run import RecipeRun


def main(arguments: list[str]) -> None:
    """Print the losses and metrics of a run's model on its validation rows.

    Raises:
        UserError: a mistake of the user's, or the model is not made yet.
    """
    run = RecipeRun(parse("validate", arguments))
    stage = run.models.main.stage
    assert isinstance(stage, Learn | Train)
    trainer = stage.trainer.make("validate", [], logger=False)
    data = stage.probe.data() if isinstance(stage, Learn) else stage.data()
    trainer.validate(run.module(), datamodule=data)
