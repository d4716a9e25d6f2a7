"""The sections of a parsed recipe as objects."""

import json
from dataclasses import dataclass
from typing import Any

from jsonargparse import Namespace

from datamodules import DataSource
from lightning_app.recipe.model_recipes import ExpertRecipe, MergeRecipe
from lightning_app.recipe.position_settings import PositionSettings
from lightning_app.recipe.recipe_parser import instantiate
from modules import Expert, LossConfig, MergeMethod, Search
from modules.positioning.experts import as_expert


@dataclass(frozen=True)
class RecipeSettings:
    """All that a recipe says of the models to make; no object in it holds a model or rows.

    Args:
        run_dir: everything that the run makes goes here.
        seed: of all random numbers.
        base: theta_0: a folder or a hub name.
        experts: those of the section ``model``; empty: the recipes are trained, and no more.
        options: the other arguments of `MergeModule`, ``method`` and ``search`` as objects.
        recipes: models to train, by name.
        merges: models to merge, by name.
        probe: the arguments of `ProbeDataModule`, ``tasks`` aside.
        probe_sources: data sets to probe on instead of those of the experts.
        position: lengths and clipping of the training of positions.
        trainer: arguments of the Trainers that every training shares, as JSON.
        mteb: arguments of `MtebCallback`.
        baselines: names of the other rows of the table.
        decontaminate: leave out training rows that are texts of the tasks.
    """

    run_dir: str
    seed: int
    base: str
    experts: dict[str, Expert]
    options: dict[str, Any]
    recipes: dict[str, ExpertRecipe]
    merges: dict[str, MergeRecipe]
    probe: dict[str, Any]
    probe_sources: list[DataSource] | None
    position: PositionSettings
    trainer: dict[str, Any]
    mteb: dict[str, Any]
    baselines: list[str]
    decontaminate: bool = False


def read_settings(config: Namespace) -> RecipeSettings:
    """Return the sections of a parsed recipe."""
    objects = instantiate(
        recipes=(dict[str, ExpertRecipe], config.recipes),
        merges=(dict[str, MergeRecipe], config.merges),
        experts=(dict[str, Expert | str], config.model.experts),
        tasks=(list[DataSource] | None, config.probe.tasks),
        loss=(LossConfig | None, config.probe.loss),
        method=(MergeMethod | None, config.model.method),
        search=(Search | None, config.model.search),
    )
    position = instantiate(position=(PositionSettings, config.position)).position
    options = {key: value for key, value in config.model.as_dict().items() if key not in ("base", "experts")}
    return RecipeSettings(
        run_dir=config.run_dir,
        seed=int(config.seed_everything),
        base=config.model.base,
        experts={name: as_expert(expert) for name, expert in objects.experts.items()},
        options=options | {"method": objects.method, "search": objects.search},
        recipes=objects.recipes,
        merges=objects.merges,
        probe={key: value for key, value in config.probe.as_dict().items() if key != "tasks"} | {"loss": objects.loss},
        probe_sources=objects.tasks,
        position=position,
        trainer=as_json(config.trainer),
        mteb=config.mteb.as_dict(),
        baselines=config.baselines,
        decontaminate=config.decontaminate,
    )


def as_json(part: Any) -> Any:
    """Return a part of a parsed configuration as JSON has it, nothing in it instantiated."""
    return json.loads(
        json.dumps(part, default=lambda value: vars(value) if isinstance(value, Namespace) else str(value))
    )
