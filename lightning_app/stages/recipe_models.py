"""From a recipe to stages: which models there are, what each is made of, and how it is made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from lightning import Callback

from datamodules import TaskData
from datamodules.text_ids import TextIds
from lightning_app.recipe.model_recipes import MergeRecipe
from lightning_app.recipe.named_merges import MAIN, MERGES
from lightning_app.recipe.recipe_checks import checked_recipes
from lightning_app.recipe.recipe_settings import RecipeSettings
from lightning_app.stages.fixed_merge import BY_LOSSES, Choice, FixedMerge
from lightning_app.stages.learn import Learn
from lightning_app.stages.merge_inputs import MergeInputs, TrainedOn
from lightning_app.stages.model import Model
from lightning_app.stages.model_loading import ModelLoading, is_plain
from lightning_app.stages.recipe_data import RecipeData
from lightning_app.stages.train import KEPT, Train, TrainingRows
from lightning_app.stages.trainer_settings import SharedTrainer
from modules import Bfgs, MergeMethod, Search, Slerp, TaskArithmetic, UserError

Watch = Callable[[], list[Callback]]
"""Makes the callbacks that look on while the main position is learned."""


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
            recipe = self.merges[name]
            made = self._learn(name, recipe, chain) if recipe.weighting == "learned" else self._fix(name, recipe, chain)
            return Model(name, stage=made, loading=self.loading)
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
            trainer=self.trainer.of_expert({}),
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

    def _learn(self, name: str, recipe: MergeRecipe, chain: tuple[str, ...]) -> Learn:
        options = self.settings.options
        search: Search = recipe.search or options["search"] or Bfgs()
        signed = options["signed"] if recipe.signed is None else recipe.signed
        granularity = options["granularity"] if recipe.granularity is None else recipe.granularity
        merge = self._inputs(recipe, self._method(recipe), granularity, signed, chain)
        if recipe.mu is not None and not merge.method.has_scale:
            kind = type(merge.method).__name__
            raise UserError(f"merges.{name}.mu: it weighs the scale, and {kind} has none; leave it out")
        mu = options["mu"] if recipe.mu is None else recipe.mu
        own, probe, main = self._lengths(recipe), self.data.probe(recipe.probe_size), name == MAIN
        return Learn(
            name=name,
            merge=merge,
            search=search,
            mu=mu if merge.method.has_scale else 0.0,
            pull=options["pull"] if recipe.pull is None else recipe.pull,
            settled=options["settled"],
            probe=probe,
            trainer=self.trainer.of_position(own, search, scored=main),
            initial=None if recipe.initial is None else self.model(recipe.initial, chain),
            followed=self.followed if main else None,
            steps=_steps(own, search, probe.batches),
            watch=self.watch if main else list,
            unusable=tuple(self.trainer.unusable(own, search)),
        )

    def _fix(self, name: str, recipe: MergeRecipe, chain: tuple[str, ...]) -> FixedMerge:
        # Fixed weightings are of whole task vectors, and some are 0.
        signed = recipe.weighting != "equal"
        merge = self._inputs(recipe, self._method(recipe), recipe.granularity or "model", signed, chain)
        tries = len(recipe.scales) > 1 or recipe.weighting in BY_LOSSES
        return FixedMerge(
            name=name,
            merge=merge,
            weighting=recipe.weighting,
            scales=tuple(recipe.scales),
            temperatures=tuple(recipe.temperatures),
            row_counts=tuple(merge.row_counts()) if recipe.weighting == "size" else (),
            choice=Choice(self.data.probe(), self.trainer.of_validation()) if tries else None,
        )

    def _method(self, recipe: MergeRecipe) -> MergeMethod:
        if recipe.weighting not in ("learned", "equal"):
            return TaskArithmetic()
        method: MergeMethod = recipe.method or self.settings.options["method"] or Slerp()
        return method

    def _inputs(
        self, recipe: MergeRecipe, method: MergeMethod, granularity: int | str, signed: bool, chain: tuple[str, ...]
    ) -> MergeInputs:
        """The models that a merge is between.

        Raises:
            UserError: the method cannot be followed with these experts.
        """
        start = self._start(recipe.start, chain)
        experts = {other: self.model(other, chain) for other in recipe.experts or self.settings.experts}
        method.places(list(experts))  # what is wrong with it shows before training
        # LM-Cocktail takes an expert's losses relative to the start's, whatever that is.
        around = start is not self.base and recipe.weighting != "lm_cocktail"
        given, settings_of = self.settings.options["settings_of"], self._settings_of(start, experts)
        merge = MergeInputs(
            start=start,
            experts=tuple(experts.items()),
            method=method,
            granularity=granularity,
            signed=signed,
            settings_of=settings_of,
            prompts_of_rows=settings_of != given,
            reference=self.base if around else None,
            trained_on=self._trained_on(list(experts)),
            allow_suspicious=self.settings.options["allow_suspicious"],
        )
        merge.check_statistics()
        return merge

    def _settings_of(self, start: Model, experts: dict[str, Model]) -> str | None:
        """Whose longest text and prompts a merge has: as the recipe says; None: the models must agree.

        Experts that were trained on data sets with prompts of their own differ in these from their start, whose
        settings count then; the merge takes the prompts from the rows.
        """
        given: str | None = self.settings.options["settings_of"]
        if given in ("base", *experts):
            return given
        trained = [name for name, model in experts.items() if model.stage is not None]
        if not trained or not self.data.has_prompts:
            return None  # a name that is given is that of an expert of other merges
        return trained[0] if start.path is not None and is_plain(start.path) else "base"

    def _trained_on(self, names: Sequence[str]) -> dict[str, TrainedOn]:
        """The rows of each expert that was trained here."""
        found = {}
        for name in names:
            expert = self.settings.experts.get(name)
            recipe_name = name.rpartition("@")[0] or name if expert is None else expert.recipe
            if recipe_name in self.recipes:
                recipe = self.recipes[recipe_name]
                rows = tuple(self.data.of(recipe_name))
                found[name] = TrainedOn(rows, recipe.batch_size, recipe.max_length)
        return found

    def _lengths(self, recipe: MergeRecipe) -> dict[str, Any]:
        """The arguments of the Trainer of a position that are its own; null in ``position``: as ``trainer`` says."""
        position = asdict(self.settings.position)
        own = {key: value for key, value in position.items() if value is not None}
        own["check_val_every_n_epoch"] = position["check_val_every_n_epoch"]
        return own if recipe.max_steps is None else own | {"max_steps": recipe.max_steps, "max_epochs": -1}


def _steps(own: dict[str, Any], search: Search, batches: int) -> int:
    """About how many optimiser steps the learning of a position takes at most."""
    if own.get("max_steps", -1) > 0:
        return int(own["max_steps"])
    return int((own.get("max_epochs") or 1) * (1 if search.full_probe else batches))
