"""Checks for contradictions in a recipe, before anything is trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_app.recipe import named_merges
from lightning_app.recipe.class_path import maker_of
from lightning_app.recipe.model_recipes import ExpertRecipe, MergeRecipe, check_merge, joint_recipe
from lightning_app.recipe.recipe_settings import RecipeSettings
from modules import Expert, UserError


def checked_recipes(settings: RecipeSettings) -> dict[str, ExpertRecipe]:
    """Return the models to train, with a joint model where one is wanted and none is described.

    Raises:
        UserError: a name is taken, or a model is described by too much or too little.
    """
    recipes, merges = dict(settings.recipes), named_merges.MERGES | settings.merges
    if not settings.experts and not recipes:
        raise UserError("the recipe trains and merges nothing: give it recipes, and model.experts to merge")
    for name, expert in settings.experts.items():
        _check_expert(name, expert, recipes)
    for name in (*settings.experts, *recipes):
        if name in ("base", "experts", *named_merges.MERGES):
            raise UserError(f"'{name}' is the name of a baseline: call the expert or recipe otherwise")
    if named_merges.MAIN in settings.merges:
        main = named_merges.MAIN
        raise UserError(f"merges.{main}: the section 'model' says how that one is merged; write it there")
    for name, merge in settings.merges.items():
        check_merge(name, merge)
        if name in recipes or name in (*settings.experts, *named_merges.GROUPS):
            raise UserError(f"merges.{name}: another model has that name already; choose another")
    _add_joint(settings, recipes, merges)
    for name in settings.baselines:
        known = [*named_merges.GROUPS, *settings.experts, *recipes, *merges]
        if name not in known and name.rpartition("@")[0] not in known:  # a step of a training is looked up later
            raise UserError(f"baselines: '{name}' is unknown; known are {', '.join(dict.fromkeys(known))}")
    for name, recipe in recipes.items():
        _check_rows(name, recipe, recipes)
        _check_training(name, recipe)
    return recipes


def _add_joint(settings: RecipeSettings, recipes: dict[str, ExpertRecipe], merges: Mapping[str, MergeRecipe]) -> None:
    """A recipe for the joint model, where one is wanted and none is there."""
    wanted = [name for name in (*settings.baselines, *settings.merges) if name in merges]
    needed = ["baselines"] if "joint" in settings.baselines else []
    needed += [f"merges.{name}" for name in wanted if "joint" in (merges[name].start, *merges[name].experts)]
    needed += [f"recipes.{name}.start" for name, recipe in recipes.items() if recipe.start == "joint"]
    if needed and "joint" not in (*recipes, *settings.merges, *settings.experts):
        experts = {e.recipe: recipes[e.recipe] for e in settings.experts.values() if e.recipe}
        if not experts:
            raise UserError(f"{needed[0]}: 'joint' needs recipes.joint where no expert has a recipe")
        recipes["joint"] = joint_recipe(experts)


def _check_training(name: str, recipe: ExpertRecipe) -> None:
    where = f"recipes.{name}"
    for key in ("max_steps", "validate_every"):
        steps: int | None = getattr(recipe, key)
        if steps is not None and steps < 1:
            raise UserError(f"{where}.{key} is {steps}; give a number of steps, 1 or more")
    for key, kind in (("optimizer", Optimizer), ("schedule", LRScheduler)):
        given: dict[str, Any] | None = getattr(recipe, key)
        if given is not None:
            maker_of(given, kind, f"{where}.{key}")
    if (recipe.keep_best or recipe.stop_early) and recipe.validate_every is None:
        key = "stop_early" if recipe.stop_early else "keep_best"
        raise UserError(f"{where}.{key}: there is one validation, at the end; give validate_every")
    if recipe.stop_early and recipe.stop_early.others_at_most is not None and recipe.mix:
        raise UserError(f"{where}.stop_early.others_at_most: a mix has no other tasks; leave it out")
    if recipe.keep and not 0 < recipe.keep.every <= recipe.max_steps:
        raise UserError(f"{where}.keep.every is {recipe.keep.every}; give a step from 1 to {recipe.max_steps}")


def _check_rows(name: str, recipe: ExpertRecipe, recipes: Mapping[str, ExpertRecipe]) -> None:
    if bool(recipe.data) == bool(recipe.mix):
        raise UserError(f"recipes.{name}: give either data or mix")
    if recipe.part and not 1 <= recipe.part[0] <= recipe.part[1]:
        raise UserError(f"recipes.{name}.part is {list(recipe.part)}; [2, 3] is the second of three parts")
    if recipe.seed < 0:
        raise UserError(f"recipes.{name}.seed is {recipe.seed}; it is 0 or above")
    if recipe.resample and not recipe.mix:
        raise UserError(f"recipes.{name}.resample: only a mix has proportions; use share for data sets")
    for other in recipe.mix:
        if not recipes.get(other, ExpertRecipe()).data:
            raise UserError(f"recipes.{name}.mix: '{other}' is not a recipe with data")


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
