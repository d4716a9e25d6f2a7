"""From a recipe to stages: which models there are, what each is made of, and how it is made."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from datamodules import TaskData
from datamodules.text_ids import TextIds
from lightning_app.recipe.named_merges import MAIN, MERGES
from lightning_app.recipe.recipe_checks import checked_recipes
from lightning_app.recipe.recipe_settings import RecipeSettings
from lightning_app.stages.learn import Learn
from lightning_app.stages.model import Model
from lightning_app.stages.model_loading import ModelLoading
from lightning_app.stages.recipe_data import RecipeData
from lightning_app.stages.recipe_merges import RecipeMerges, Watch
from lightning_app.stages.stage import Stage
from lightning_app.stages.train import KEPT, Train, TrainingRows
from lightning_app.stages.trainer_settings import SharedTrainer
from modules import UserError

SEEDS_APART = 1000
"""Between the seeds of recipes in one run, so that no two runs of a study train the same model."""


class RecipeModels:
    """Knows every model that a recipe names, and builds the stages that make it; nothing runs before a stage is run.

    Args:
        settings: the recipe.
        data: the recipe's data sets, if they are read already.
        seed: of all random numbers; None: the recipe's.
        watch: makes the callbacks that look on while the main position is learned.
        followed: all that the scores of `watch` depend on, if a callback of the recipe goes by them.
        decontaminate: MTEB task to the numbers of its texts, of which no row is used; see `load_tasks`.

    Raises:
        UserError: the recipe names something that is not there, or its data is not as it should be.
    """

    def __init__(
        self,
        settings: RecipeSettings,
        data: RecipeData | None = None,
        *,
        seed: int | None = None,
        watch: Watch = list,
        followed: Any = None,
        decontaminate: Mapping[str, TextIds] | None = None,
    ) -> None:
        self.settings, self.watch, self.followed, self.decontaminate = settings, watch, followed, decontaminate
        self.seed = settings.seed if seed is None else seed
        self.loading = ModelLoading.of(settings)
        self.trainer = SharedTrainer(settings.trainer, settings.run_dir, self.seed)
        self.base = Model("base", path=settings.base, loading=self.loading)
        self.merges = MERGES | settings.merges
        self.recipes = checked_recipes(settings)
        self.data = data or RecipeData(
            self.recipes, settings.experts, settings.probe, settings.probe_sources, self.seed, decontaminate
        )
        self._merges = RecipeMerges(
            settings, self.recipes, self.data, self.trainer, self.base, self.model, self._start, watch, followed
        )
        self._models: dict[str, Model] = {"base": self.base}
        self.experts = {name: self.model(name) for name in settings.experts}

    def with_seed(self, seed: int) -> "RecipeModels":
        """Return the same models, trained and learned with other random numbers on the same rows."""
        data = self.data.with_order(seed)
        return RecipeModels(self.settings, data, seed=seed, watch=self.watch, followed=self.followed)

    def with_settings(self, settings: RecipeSettings) -> "RecipeModels":
        """Return the models of another recipe, whose main position is looked at in the same way."""
        return RecipeModels(settings, watch=self.watch, followed=self.followed, decontaminate=self.decontaminate)

    @property
    def main(self) -> Model:
        """The run's own model: the learned position, or without experts the last recipe."""
        return self.model(MAIN if self.settings.experts else list(self.settings.recipes)[-1])

    def baseline_models(self) -> list[Model]:
        """Return the other rows of the table: the recipe's baselines; without experts the base and its recipes."""
        names = self.settings.baselines
        if not self.settings.experts:
            names = [*dict.fromkeys(["base", *names, *self.settings.recipes])]
        models: list[Model] = []
        for name in names:
            models.extend(self.experts.values() if name == "experts" else [self.model(name)])
        return models

    def rows(self) -> dict[str, Model]:
        """Return the rows of the table by name: the baselines, then the run's own model."""
        return {model.name: model for model in [*self.baseline_models(), self.main]}

    def wanted_stages(self) -> list[Stage]:
        """Return the stages that make the run's own model and the other rows of the table, in this order."""
        return [stage for model in [self.main, *self.rows().values()] for stage in model.inputs]

    def model(self, name: str, chain: tuple[str, ...] = ()) -> Model:
        """Return any model by its name: ``base``, an expert, what a recipe trains, a merge.

        Args:
            name: of the model.
            chain: names of the models that wait for this one.

        Raises:
            UserError: there is none of that name, or it would be made of itself.
        """
        if name in chain:
            raise UserError(f"models are made of each other in a circle: {' -> '.join([*chain, name])}")
        if name not in self._models:
            self._models[name] = self._make(name, (*chain, name))
        return self._models[name]

    def known(self, name: str) -> bool:
        """Return whether `model` finds one of this name."""
        trained = name.rpartition("@")[0] or name
        known = (self.settings.experts, self.recipes, self.merges)
        return name == "base" or any(trained in names or name in names for names in known)

    def learned(self, name: str) -> Learn:
        """Return the stage of a learned merge.

        Raises:
            UserError: the model is no learned merge.
        """
        stage = self.model(name).stage
        if not isinstance(stage, Learn):
            raise UserError(f"'{name}' is not a learned merge")
        return stage

    def remarks(self) -> list[str]:
        """Return a line for every recipe and merge that no model asked for so far is made of."""
        made = {expert.recipe for expert in self.settings.experts.values()} | self._models.keys()
        mixed = {other for name in made if name in self.recipes for other in self.recipes[name].mix}
        keys = [f"recipes.{name}" for name in self.settings.recipes if name not in made | mixed]
        keys += [f"merges.{name}" for name in self.settings.merges if name not in made]
        return [f"{key}: nothing is made of it; name it in baselines to have it" for key in keys]

    def _make(self, name: str, chain: tuple[str, ...]) -> Model:
        expert = self.settings.experts.get(name)
        if expert is not None:
            # A recipe of the expert's own name is the expert, not one of its ancestors.
            if expert.recipe is not None:
                trained = self._train(name, chain) if expert.recipe == name else self.model(expert.recipe, chain)
                return replace(trained, name=name)
            return Model(name, path=expert.path, loading=self.loading)
        if name in self.recipes:
            return self._train(name, chain)
        if "@" in name:
            return self._step(name, chain)
        if name in self.merges:
            return Model(name, stage=self._merges.stage(name, self.merges[name], chain), loading=self.loading)
        known = ", ".join(dict.fromkeys(["base", *self.settings.experts, *self.recipes, *self.merges]))
        raise UserError(f"there is no model '{name}'; known are {known}")

    def _start(self, start: str, chain: tuple[str, ...]) -> Model:
        return self.model(start, chain) if self.known(start) else Model("start", path=start, loading=self.loading)

    def _train(self, name: str, chain: tuple[str, ...]) -> Model:
        recipe = self.recipes[name]
        stage = Train(
            name=name,
            start=self._start(recipe.start, chain),
            training=recipe.training(),
            rows=tuple(map(TrainingRows, self.data.of(name))),
            groups=self.data.groups(name) if recipe.conflict_every else {},
            trainer=replace(self.trainer, seed=self.seed + SEEDS_APART * recipe.seed).of_expert({}),
            others=self._other_tasks(name),
            joint=bool(recipe.mix),
        )
        return Model(name, stage=stage, loading=self.loading)

    def _step(self, name: str, chain: tuple[str, ...]) -> Model:
        """A model of a step on the way, ``NAME@STEP``.

        Raises:
            UserError: no such step is kept.
        """
        trained, _, step = name.rpartition("@")
        recipe_name = self.settings.experts[trained].recipe if trained in self.settings.experts else trained
        recipe = self.recipes.get(recipe_name or "")
        if recipe is None or recipe.keep is None:
            raise UserError(f"there is no model '{name}': recipes.{recipe_name}.keep keeps no step")
        kept = range(recipe.keep.every, recipe.max_steps + 1, recipe.keep.every)
        if not step.isdecimal() or int(step) not in kept:
            raise UserError(f"there is no model '{name}'; kept are the steps {', '.join(map(str, kept))}")
        return replace(self.model(trained, chain), name=name, part=f"{KEPT}/{step}")

    def _other_tasks(self, name: str) -> tuple[TaskData, ...]:
        """The probe rows of the tasks that a gentle expert is not trained on."""
        stop = self.recipes[name].stop_early
        if stop is None or stop.others_at_most is None:
            return ()
        own = {task.name for task in self.data.of(name)}
        others = tuple(task.probe for task in self.data.probe_tasks() if task.name not in own)
        if not others:
            raise UserError(f"recipes.{name}.stop_early.others_at_most: the probe has no other tasks; leave it out")
        return others
