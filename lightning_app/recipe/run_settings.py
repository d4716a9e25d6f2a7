"""The sections of a merge recipe as objects."""

from dataclasses import dataclass
from typing import Any

from jsonargparse import Namespace

from datamodules import DataSource
from lightning_app.recipe.model_recipes import ExpertRecipe, MergeRecipe
from lightning_app.recipe.recipe_parser import instantiate
from lightning_app.stages.loading import Loading
from modules import Expert, LossConfig, MergeMethod, Search
from modules.positioning.experts import as_expert


@dataclass(frozen=True)
class RecipeSettings:
    """The parts of a recipe that its models share.

    Args:
        base: theta_0: a folder or a hub name.
        experts: those of the section ``model``.
        options: the other arguments of `MergeModule`.
        probe: the arguments of `ProbeDataModule`, ``tasks`` aside.
        probe_sources: data sets to probe on instead of those of the experts.
        recipes: models to train, by name.
        merges: models to merge, by name.
        baselines: names of the other rows of the table.
    """

    base: str
    experts: dict[str, Expert]
    options: dict[str, Any]
    probe: dict[str, Any]
    probe_sources: list[DataSource] | None
    recipes: dict[str, ExpertRecipe]
    merges: dict[str, MergeRecipe]
    baselines: list[str]

    @property
    def loading(self) -> Loading:
        """How the models of the run are loaded."""
        told = {key: self.options[key] for key in ("pooling", "trust_remote_code", "attn_implementation")}
        return Loading(**told, base=self.base)


def read_settings(section: Namespace) -> RecipeSettings:
    """The sections of a parsed recipe; the model itself cannot be built before its experts are there."""
    objects = instantiate(
        recipes=(dict[str, ExpertRecipe], section.recipes),
        merges=(dict[str, MergeRecipe], section.merges),
        experts=(dict[str, Expert | str], section.model.experts),
        tasks=(list[DataSource] | None, section.data.tasks),
        loss=(LossConfig | None, section.data.loss),
        method=(MergeMethod | None, section.model.method),
        search=(Search | None, section.model.search),
    )
    options = {key: value for key, value in section.model.as_dict().items() if key not in ("base", "experts")}
    return RecipeSettings(
        section.model.base,
        {name: as_expert(expert) for name, expert in objects.experts.items()},
        options | {"method": objects.method, "search": objects.search},
        {key: value for key, value in section.data.as_dict().items() if key != "tasks"} | {"loss": objects.loss},
        objects.tasks,
        objects.recipes,
        objects.merges,
        section.baselines,
    )
