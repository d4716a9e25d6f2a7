"""The data sets of a recipe, read and split once, and who trains or probes on which."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from datamodules import DataSource, ProbeDataModule, SplitTask, TaskData, load_tasks
from datamodules.batching import apportion
from datamodules.probe_datamodule import check_task_weights
from datamodules.resampling import resample, resampled_sizes
from datamodules.text_ids import TextIds
from lightning_app.recipe.model_recipes import ExpertRecipe
from lightning_app.stages.probe_rows import ProbeRows
from modules import Expert, LossConfig, UserError


class RecipeData:
    """All data sets of all recipes, split together, so that no held-out row is an expert row anywhere.

    Args:
        recipes: models to train, by name.
        experts: of the recipe's ``model``, by name; each with a recipe has an equal part in the objective.
        probe: the arguments of `ProbeDataModule`, ``tasks`` aside.
        probe_sources: data sets to probe on instead of those of the experts.
        seed: of the splits, and of resampling.
        decontaminate: MTEB task to the numbers of its texts, of which no row may be in any part; see `load_tasks`.

    Raises:
        UserError: a data set cannot be read, or is too small for what it is to do.
    """

    def __init__(
        self,
        recipes: dict[str, ExpertRecipe],
        experts: dict[str, Expert],
        probe: dict[str, Any],
        probe_sources: list[DataSource] | None,
        seed: int,
        decontaminate: Mapping[str, TextIds] | None = None,
    ) -> None:
        self.recipes, self.experts, self.seed = recipes, experts, seed
        ProbeDataModule(**probe)  # refuses what it cannot do
        self.probe_loss: LossConfig | None = probe["loss"]  # its rows carry it, and so it is in their keys
        self.probe_arguments = {key: value for key, value in probe.items() if key != "loss"}
        self.probe_sources, self.decontaminate = probe_sources, decontaminate
        self.tasks = self._load()

    @property
    def has_prompts(self) -> bool:
        """Return whether a data set has prompts of its own, beside those of the model."""
        return any(task.expert.has_prompts for task in self.tasks.values())

    @property
    def sources(self) -> list[str]:
        """The places of the rows: files, folders and hub names, each once."""
        described = [source for recipe in self.recipes.values() for source in recipe.data]
        return list(dict.fromkeys(source.source for source in (*described, *(self.probe_sources or []))))

    def with_order(self, seed: int) -> "RecipeData":
        """Return the same rows, those of the probe in another order."""
        other = copy(self)
        other.probe_arguments = self.probe_arguments | {"seed": seed}
        return other

    def of(self, name: str) -> list[SplitTask]:
        """The data sets that a recipe trains on, with their shares and, resampled, their rows."""
        recipe = self.recipes[name]
        if recipe.data:
            tasks = [self.tasks[_task_name(name, source, recipe.data)] for source in recipe.data]
        else:
            mixed = self._resampled(name) if recipe.resample else self._mixed(recipe)
            tasks = [task.with_loss(recipe.loss) for task in mixed]
        if recipe.part:
            tasks = [replace(task, expert=_part(task.expert, *recipe.part)) for task in tasks]
        if recipe.rows == "probe":
            tasks = [replace(task, expert=task.probe) for task in tasks]
        for task in tasks:
            refuse_small(task.name, task.expert, recipe.batch_size, f"recipes.{name}.batch_size")
        return tasks

    def groups(self, name: str) -> dict[str, list[str]]:
        """Return the groups that a recipe mixes, with the names of their data sets; own data are one group."""
        return {other: [task.name for task in self.of(other)] for other in self.recipes[name].mix or [name]}

    def shares(self, name: str) -> dict[str, float]:
        """Return the groups that a recipe mixes, each with its part of the batches; the parts add up to 1."""
        tasks = {task.name: task for task in self.of(name)}
        weights = {n: float(len(task.expert)) if task.share is None else task.share for n, task in tasks.items()}
        total = sum(weights.values())
        return {group: sum(weights[n] for n in names) / total for group, names in self.groups(name).items()}

    def rows(self, name: str) -> int:
        """Return how many rows a recipe trains on."""
        return sum(len(task.expert) for task in self.of(name))

    def probe(self, size: int | None = None, task_weights: dict[str, float] | None = None) -> ProbeRows:
        """Return the probe rows.

        Args:
            size: how many to learn on; None: as the recipe says.
            task_weights: data set to the relative number of its rows; None: as the recipe says.

        Raises:
            UserError: more rows are wanted than are held out, or weights of other data sets than the probe's.
        """
        tasks, arguments = tuple(self.probe_tasks()), self._arguments(size)
        if task_weights is None:
            return ProbeRows(tasks, arguments)
        names = [task.name for task in tasks]
        check_task_weights(task_weights, names)
        weights = _normalised({name: task_weights[name] for name in names})
        for task, wanted in zip(tasks, apportion(arguments["size"], list(weights.values())), strict=True):
            if wanted > len(task.probe):
                raise UserError(
                    f"task_weights: {wanted} probe rows of {task.name} are wanted, and {len(task.probe)} are held out: "
                    "raise probe.reserve"
                )
        return ProbeRows(tasks, arguments | {"task_weights": weights})

    def probe_tasks(self) -> list[SplitTask]:
        """The data sets that the position is learned on, with the losses that it is learned with."""
        return [self.tasks[name].with_loss(self.probe_loss) for name in self.probe_weights()]

    def probe_weights(self) -> dict[str, float]:
        """Data set to its part of the objective, which add up to 1: equal parts for experts, unless the recipe says."""
        given: dict[str, float | None] | None = self.probe_arguments["task_weights"]
        if given is not None:
            return _normalised(given)
        groups = self._probe_groups()
        return {
            name: share / len(groups)
            for group in groups
            for name, share in _normalised({name: source.share for name, source in group.items()}).items()
        }

    def _arguments(self, size: int | None) -> dict[str, Any]:
        """The arguments of the probe's data module, for so many rows."""
        arguments = self.probe_arguments | {"task_weights": self.probe_weights()}
        if size is None:
            return arguments
        reserved = arguments["reserve"] or arguments["size"]
        if size > reserved:
            raise UserError(f"a probe of {size} rows is wanted, and {reserved} are held out: raise probe.reserve")
        return arguments | {"size": size, "reserve": reserved}

    def _load(self) -> dict[str, SplitTask]:
        sources = {
            _task_name(name, source, recipe.data): replace(source, loss=source.loss or recipe.loss)
            for name, recipe in self.recipes.items()
            for source in recipe.data
        }
        probe = self.probe_arguments
        for group in self._probe_groups():
            sources |= {name: source for name, source in group.items() if name not in sources}
        sizes = {name: 0 for name in sources}
        validation = dict(sizes)
        for name, weight in self.probe_weights().items():
            sizes[name] = round(weight * (probe["reserve"] or probe["size"]))
            validation[name] = round(weight * probe["validation_size"])
        if not self.experts:  # what is trained is validated on its own rows
            validation = dict.fromkeys(sources, probe["validation_size"] // len(sources))
        tasks = load_tasks(
            sources,
            probe_size=sizes,
            validation_size=validation,
            seed=self.seed,
            decontaminate=self.decontaminate,
        )
        for name in self.probe_weights():
            refuse_small(f"the probe of {name}", tasks[name].probe, probe["batch_size"], "probe.batch_size")
        return tasks

    def _probe_groups(self) -> list[dict[str, DataSource]]:
        """The probe's data sets by name, grouped by what has an equal part in the objective."""
        if self.probe_sources:
            return [{source.name: source} for source in self.probe_sources]
        groups = []
        for name, expert in self.experts.items():
            if expert.recipe is None:
                raise UserError(f"probe.tasks is needed: expert '{name}' is a folder, which has no rows to probe with")
            recipe = self.recipes[expert.recipe]
            named = {_task_name(expert.recipe, source, recipe.data): source for source in recipe.data}
            if named:
                groups.append(named)
        return groups

    def _mixed(self, recipe: ExpertRecipe) -> list[SplitTask]:
        natural = all(share is None for share in recipe.mix.values())
        tasks = []
        for other, share in recipe.mix.items():
            group = self.of(other)
            within = _normalised({task.name: task.share for task in group})
            weight = 1.0 if share is None else share
            tasks += [replace(task, share=None if natural else weight * within[task.name]) for task in group]
        return tasks

    def _resampled(self, name: str) -> list[SplitTask]:
        """The data sets of a mix, with as many rows as `resampled_sizes` gives; drawn in proportion to these."""
        recipe = self.recipes[name]
        assert recipe.resample is not None
        weights = [share for share in recipe.mix.values() if share is not None]
        if len(weights) < len(recipe.mix):
            raise UserError(f"recipes.{name}.mix: resampling needs a weight for each, {recipe.mix} has none for some")
        groups = [self.of(other) for other in recipe.mix]
        sizes = [sum(len(task.expert) for task in group) for group in groups]
        tasks = []
        for group, rows in zip(groups, resampled_sizes(sizes, weights, recipe.resample), strict=True):
            shares = [float(len(task.expert)) if task.share is None else task.share for task in group]
            for task, count in zip(group, apportion(rows, shares), strict=True):
                tasks.append(replace(task, expert=resample(task.expert, count, self.seed), share=None))
        return tasks


def refuse_small(what: str, data: TaskData, batch_size: int, key: str) -> None:
    """Say before anything is trained what a data module would say when it is needed.

    Raises:
        UserError: there are fewer rows than a batch has.
    """
    if len(data) < batch_size:
        raise UserError(
            f"{what} has {len(data)} rows, less than a batch of {batch_size}: give it more, or lower batch_size ({key})"
        )


def _task_name(recipe: str, source: DataSource, data: Sequence[DataSource]) -> str:
    """A recipe's only data set is called like the recipe."""
    return recipe if len(data) == 1 else f"{recipe}/{source.name}"


def _part(data: TaskData, number: int, parts: int) -> TaskData:
    """Return every so-manieth row, from that number on: a file may be sorted."""
    return data.subset(range(number - 1, len(data), parts))


def _normalised(shares: dict[str, float | None]) -> dict[str, float]:
    """Shares that add up to 1; equal ones where none are given."""
    weights = {name: 1.0 if share is None else share for name, share in shares.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}
