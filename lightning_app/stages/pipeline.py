"""From a recipe to stages: which models there are, what each is made of, and how it is made."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks import CostMeter, GradientConflict, ResumableRun
from datamodules import TaskDataModule
from lightning_app import baselines
from lightning_app.recipe.model_recipes import ExpertRecipe, check_merge, joint_recipe
from lightning_app.recipe.recipe_data import RecipeData
from lightning_app.recipe.run_settings import RecipeSettings
from lightning_app.stages.merge_stages import BACKWARD, Merge, MergeStages
from lightning_app.stages.model import Model
from lightning_app.stages.stage_graph import Stage, StageGraph
from lightning_app.stages.trainers import TrainerFactory
from modules import ContrastiveModule, Expert, UserError


class Pipeline:
    """Knows every model that a recipe names, and builds the stages that make it; nothing runs before a stage is run.

    Args:
        settings: the recipe.
        trainers: makes the Trainer of each stage.
        graph: runs the stages.
        data: the recipe's data sets, if they are read already.

    Raises:
        UserError: the recipe names something that is not there, or its data is not as it should be.
    """

    def __init__(
        self, settings: RecipeSettings, trainers: TrainerFactory, graph: StageGraph, data: RecipeData | None = None
    ) -> None:
        self.settings = settings
        self.trainers = trainers
        self.graph = graph
        self.base = Model("base", path=settings.base)
        self.merges = baselines.MERGES | settings.merges
        self.recipes = self._checked_recipes()
        self.data = data or RecipeData(
            self.recipes, settings.experts, settings.probe, settings.probe_sources, trainers.seed
        )
        self.loading = settings.loading
        self.merge_stages = MergeStages(settings.options, self.loading, trainers, graph, self.data)
        self._models: dict[str, Model] = {"base": self.base}
        self.experts = {name: self.model(name) for name in settings.experts}

    def with_seed(self, seed: int) -> "Pipeline":
        """Return the same models, trained and learned with other random numbers on the same rows."""
        return Pipeline(self.settings, self.trainers.with_seed(seed), self.graph, self.data.with_order(seed))

    def baseline_models(self) -> list[Model]:
        """The baselines of the recipe, in its order."""
        models: list[Model] = []
        for name in self.settings.baselines:
            models.extend(self.experts.values() if name == "experts" else [self.model(name)])
        return models

    def model(self, name: str, chain: tuple[str, ...] = ()) -> Model:
        """Any model by its name: ``base``, an expert, what a recipe trains, a merge.

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

    def merge(self, name: str, chain: tuple[str, ...] = ()) -> Merge:
        """A merge with the models that it refers to.

        Args:
            name: of the merge.
            chain: names of the models that wait for it, itself among them.
        """
        recipe = self.merges[name]
        start = self._start(recipe.start, chain)
        experts = {other: self.model(other, chain) for other in recipe.experts or self.settings.experts}
        initial = None if recipe.initial is None else self.model(recipe.initial, chain)
        rows = {other: self.rows_of(other) for other in experts}
        # LM-Cocktail takes an expert's losses relative to the start's, whatever that is.
        around = start is not self.base and recipe.weighting != "lm_cocktail"
        return Merge(recipe, start, experts, rows, initial, self.base if around else None)

    def known(self, name: str) -> bool:
        """Return whether `model` finds one of this name."""
        return name == "base" or any(name in names for names in (self.settings.experts, self.recipes, self.merges))

    def expert_folders(self) -> dict[str, str]:
        """Return the folder or hub name of every expert, as `MergeModule` takes them."""
        return {name: model.folder(self.graph) for name, model in self.experts.items()}

    def rows_of(self, name: str) -> str | None:
        """The recipe whose rows a model was trained on; None for a folder, and for a merge."""
        expert = self.settings.experts.get(name)
        if expert is not None:
            return expert.recipe
        return name if name in self.recipes else None

    def _make(self, name: str, chain: tuple[str, ...]) -> Model:
        expert = self.settings.experts.get(name)
        if expert is not None:
            found = Model(name, path=expert.path)
            # A recipe of the expert's own name is the expert, not one of its ancestors.
            if expert.recipe is not None:
                trained = self._train(name, chain) if expert.recipe == name else self.model(expert.recipe, chain)
                found = replace(trained, name=name)
            return found
        if name in self.recipes:
            return self._train(name, chain)
        if name in self.merges:
            return Model(name, stage=self.merge_stages.stage(name, self.merge(name, chain)))
        known = ", ".join(dict.fromkeys(["base", *self.settings.experts, *self.recipes, *self.merges]))
        raise UserError(f"there is no model '{name}'; known are {known}")

    def _train(self, name: str, chain: tuple[str, ...]) -> Model:
        return Model(name, stage=self._training_stage(name, self._start(self.recipes[name].start, chain)))

    def _start(self, start: str, chain: tuple[str, ...]) -> Model:
        return self.model(start, chain) if self.known(start) else Model("start", path=start)

    def _checked_recipes(self) -> dict[str, ExpertRecipe]:
        recipes = dict(self.settings.recipes)
        for name, expert in self.settings.experts.items():
            _check_expert(name, expert, recipes)
        for name in (*self.settings.experts, *recipes):
            if name in ("base", "experts", *baselines.MERGES):
                raise UserError(f"'{name}' is the name of a baseline: call the expert or recipe otherwise")
        if baselines.MAIN in self.settings.merges:
            raise UserError(f"merges.{baselines.MAIN}: the section 'model' says how that one is merged; write it there")
        for name, merge in self.settings.merges.items():
            check_merge(name, merge)
            if name in recipes or name in (*self.settings.experts, *baselines.GROUPS):
                raise UserError(f"merges.{name}: another model has that name already; choose another")
        self._add_joint(recipes)
        for name in self.settings.baselines:
            known_names = [*baselines.GROUPS, *self.settings.experts, *recipes, *self.merges]
            if name not in known_names:
                raise UserError(f"baselines: '{name}' is unknown; known are {', '.join(dict.fromkeys(known_names))}")
        for name, recipe in recipes.items():
            if bool(recipe.data) == bool(recipe.mix):
                raise UserError(f"recipes.{name}: give either data or mix")
            if recipe.resample and not recipe.mix:
                raise UserError(f"recipes.{name}.resample: only a mix has proportions; use share for data sets")
            for other in recipe.mix:
                if not recipes.get(other, ExpertRecipe()).data:
                    raise UserError(f"recipes.{name}.mix: '{other}' is not a recipe with data")
        return recipes

    def _add_joint(self, recipes: dict[str, ExpertRecipe]) -> None:
        """A recipe for the joint model, where one is wanted and none is there."""
        wanted = [name for name in (*self.settings.baselines, *self.settings.merges) if name in self.merges]
        needed = ["baselines"] if "joint" in self.settings.baselines else []
        needed += [
            f"merges.{name}" for name in wanted if "joint" in (self.merges[name].start, *self.merges[name].experts)
        ]
        needed += [f"recipes.{name}.start" for name, recipe in recipes.items() if recipe.start == "joint"]
        if needed and "joint" not in (*recipes, *self.settings.merges, *self.settings.experts):
            experts = {e.recipe: recipes[e.recipe] for e in self.settings.experts.values() if e.recipe}
            if not experts:
                raise UserError(f"{needed[0]}: 'joint' needs recipes.joint where no expert has a recipe")
            recipes["joint"] = joint_recipe(experts)

    def remarks(self) -> list[str]:
        """A line for every recipe and merge that no model asked for so far is made of."""
        made = {expert.recipe for expert in self.settings.experts.values()} | self._models.keys()
        mixed = {other for name in made if name in self.recipes for other in self.recipes[name].mix}
        keys = [f"recipes.{name}" for name in self.settings.recipes if name not in made | mixed]
        keys += [f"merges.{name}" for name in self.settings.merges if name not in made]
        return [f"{key}: nothing is made of it; name it in baselines to have it" for key in keys]

    def _training_stage(self, name: str, start: Model) -> Stage:
        recipe = self.recipes[name]
        tasks = self.data.of(name)
        arguments = {key: getattr(recipe, key) for key in ("lr", "warmup", "weight_decay")}
        made_of = ("data", "mix", "resample", "rows", "start", "loss", "conflict_every")
        content: dict[str, Any] = {
            "start": start.identity(self.loading),
            "recipe": {k: v for k, v in asdict(recipe).items() if k not in made_of},
            "data": {t.name: [t.expert.fingerprint(), t.validation.fingerprint(), t.share] for t in tasks},
            "trainer": self.trainers.settings("expert"),
        }
        if recipe.conflict_every:
            content["conflict_every"] = recipe.conflict_every

        def train(folder: Path) -> None:
            rows = sum(len(task.expert) for task in tasks)
            rank_zero_info(
                f"  training {recipe.max_steps} steps on {rows:,} rows of {', '.join(t.name for t in tasks)}"
            )
            self.trainers.seed_stage()
            steps = (recipe.validate_every or recipe.max_steps) * self.trainers.config.accumulate_grad_batches
            callbacks: list[Callback] = [ResumableRun(folder), CostMeter(folder)]
            if recipe.conflict_every:
                callbacks.append(GradientConflict(folder, recipe.conflict_every, groups=self.data.groups(name)))
            trainer = self.trainers.make(
                name,
                callbacks,
                max_steps=recipe.max_steps,
                max_epochs=-1,
                max_time=None,
                num_sanity_val_steps=0,
                val_check_interval=steps,
                check_val_every_n_epoch=None,
            )
            base = start.folder(self.graph)
            module = ContrastiveModule(base, **self.loading.options(base), **arguments)
            data = TaskDataModule(
                tasks, batch_size=recipe.batch_size, max_length=recipe.max_length, seed=self.trainers.seed
            )
            self.trainers.fit(trainer, module, data)
            if trainer.is_global_zero:
                module.save(folder / "model")

        texts = 2 * BACKWARD * recipe.max_steps * recipe.batch_size
        return Stage("model", name, content, train, start.inputs, texts)


def _check_expert(name: str, expert: Expert, recipes: Mapping[str, ExpertRecipe]) -> None:
    """Refuse an expert that is neither a model nor what a recipe trains."""
    where = f"model.experts.{name}"
    if expert.path is not None and expert.path.startswith("{"):  # the parser takes what fits no other type for a string
        raise UserError(f"{where}: {expert.path} is neither a path nor {{recipe: NAME}}")
    if (expert.path is None) == (expert.recipe is None):
        raise UserError(f"{where}: give either a recipe or a path")
    if expert.recipe is not None and expert.recipe not in recipes:
        raise UserError(
            f"{where}.recipe: there is no recipe '{expert.recipe}' ({', '.join(recipes) or 'none'} are there)"
        )
    if expert.path is not None and expert.path in recipes and not Path(expert.path).exists():
        raise UserError(
            f"{where}: '{expert.path}' is no folder; for the recipe of that name write {{recipe: {expert.path}}}"
        )
