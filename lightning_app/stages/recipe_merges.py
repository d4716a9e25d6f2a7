"""From a merge of a recipe to its stage: which models it is between, and how its numbers are found."""

from collections.abc import Callable, Sequence
from typing import Any

from lightning import Callback

from lightning_app.recipe.model_recipes import ExpertRecipe, MergeRecipe
from lightning_app.recipe.named_merges import MAIN
from lightning_app.recipe.recipe_settings import RecipeSettings
from lightning_app.stages.fixed_merge import BY_LOSSES, Choice, FixedMerge
from lightning_app.stages.learn import Learn
from lightning_app.stages.merge_inputs import MergeInputs, TrainedOn
from lightning_app.stages.model import Model
from lightning_app.stages.model_loading import is_plain
from lightning_app.stages.recipe_data import RecipeData
from lightning_app.stages.trainer_settings import SharedTrainer
from modules import Bfgs, MergeMethod, Search, Slerp, TaskArithmetic, UserError

Watch = Callable[[], list[Callback]]
"""Makes the callbacks that look on while the main position is learned."""

Find = Callable[[str, tuple[str, ...]], Model]
"""Returns a model by its name, given the names of the models that wait for it."""


class RecipeMerges:
    """Builds the stages of merges.

    Args:
        settings: the recipe.
        recipes: models to train, by name.
        data: the recipe's data sets.
        trainer: shared by all trainings.
        base: losses are relative to it.
        find: finds the models that a merge is between.
        find_start: finds what their task vectors are taken against, which may be a folder.
        watch: makes the callbacks that look on while the main position is learned.
        followed: all that the scores of `watch` depend on, if a callback of the recipe goes by them.
    """

    def __init__(
        self,
        settings: RecipeSettings,
        recipes: dict[str, ExpertRecipe],
        data: RecipeData,
        trainer: SharedTrainer,
        base: Model,
        find: Find,
        find_start: Find,
        watch: Watch,
        followed: Any,
    ) -> None:
        self.settings, self.recipes, self.data, self.trainer, self.base = settings, recipes, data, trainer, base
        self._find, self._find_start, self._watch, self._followed = find, find_start, watch, followed

    def stage(self, name: str, recipe: MergeRecipe, chain: tuple[str, ...]) -> Learn | FixedMerge:
        """Return the stage of a merge.

        Args:
            name: of the merge.
            recipe: how it is made.
            chain: names of the models that wait for it, itself among them.

        Raises:
            UserError: the recipe cannot be followed with these experts.
        """
        make = self._learn if recipe.weighting == "learned" else self._fix
        return make(name, recipe, chain)

    def _learn(self, name: str, recipe: MergeRecipe, chain: tuple[str, ...]) -> Learn:
        options = self.settings.options
        search: Search = recipe.search or options["search"] or Bfgs()
        signed = options["signed"] if recipe.signed is None else recipe.signed
        granularity = options["granularity"] if recipe.granularity is None else recipe.granularity
        method = self._method(recipe)
        method.refuse_learning("model.method" if name == MAIN else f"merges.{name}.method")
        merge = self._inputs(recipe, method, granularity, signed, chain)
        if recipe.mu is not None and not merge.method.has_scale:
            kind = type(merge.method).__name__
            raise UserError(f"merges.{name}.mu: it weighs the scale, and {kind} has none; leave it out")
        mu = options["mu"] if recipe.mu is None else recipe.mu
        own, main = self._lengths(recipe), name == MAIN
        return Learn(
            name=name,
            merge=merge,
            search=search,
            mu=mu if merge.method.has_scale else 0.0,
            pull=options["pull"] if recipe.pull is None else recipe.pull,
            settled=options["settled"],
            probe=self.data.probe(recipe.probe_size, recipe.task_weights),
            trainer=self.trainer.of_position(own, search, scored=main),
            initial=None if recipe.initial is None else self._find(recipe.initial, chain),
            followed=self._followed if main else None,
            watch=self._watch if main else list,
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
        start = self._find_start(recipe.start, chain)
        experts = {other: self._find(other, chain) for other in recipe.experts or self.settings.experts}
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
        """Return whose longest text and prompts a merge has: as the recipe says; None: the models must agree.

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
        """The arguments of the Trainer of a position that are its own."""
        own = self.settings.position.trainer_arguments()
        return own if recipe.max_steps is None else own | {"max_steps": recipe.max_steps, "max_epochs": -1}
