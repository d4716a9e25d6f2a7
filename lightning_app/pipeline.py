"""From a recipe to stages: which models there are, what each is made of, and how it is made."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks import CoefficientTrace, ResumableRun
from datamodules import DataSource, ProbeDataModule, SplitTask, TaskData, TaskDataModule, load_tasks
from datamodules.task_datamodule import first_batches
from lightning_app.merge import METHODS
from lightning_app.model import Model
from lightning_app.recipe import ExpertRecipe, joint_recipe
from lightning_app.stages import Stage, StageGraph, is_main_process
from lightning_app.trainers import TrainerFactory
from modules import (
    ContrastiveModule,
    Expert,
    MergeMethod,
    MergeModule,
    Search,
    TaskArithmetic,
    TextEncoder,
    UserError,
    merging,
)
from modules.gather import barrier
from modules.statistics import collect_statistics

FIXED_MERGES: dict[str, type[MergeMethod]] = {
    name: getattr(merging, kind)
    for name, kind in METHODS.items()
    if name != "task_arithmetic"  # whose equal coefficients are the average
}
"""Baselines that merge with equal coefficients and scale 1."""

LEARNED_MERGES: dict[str, tuple[type[MergeMethod], dict[str, Any]]] = {
    "learned_linear": (TaskArithmetic, {"granularity": "model"}),
    "learned_layerwise": (TaskArithmetic, {"granularity": "layer"}),
}
"""Baselines that learn their coefficients as the position does: method, and what differs from the recipe's model."""

BASELINES = ("base", "experts", "joint", *FIXED_MERGES, *LEARNED_MERGES)
"""What ``baselines`` may list."""


@dataclass(frozen=True)
class MergeSettings:
    """The parts of a recipe that the position and its baselines share; see `MergeModule` and `ProbeDataModule`."""

    base: str
    experts: dict[str, Expert]
    options: dict[str, Any]  # the other arguments of MergeModule, ``method`` and ``search`` as plain values
    search: Search | None
    probe: dict[str, Any]  # the arguments of ProbeDataModule, ``tasks`` aside
    probe_sources: list[DataSource] | None
    recipes: dict[str, ExpertRecipe]
    baselines: list[str]


class Pipeline:
    """Builds the stages of a recipe; nothing is trained before a stage is run.

    Args:
        settings: the recipe.
        trainers: makes the Trainer of each stage.
        graph: runs the stages.

    Raises:
        UserError: the recipe names something that is not there, or its data is not as it should be.
    """

    def __init__(self, settings: MergeSettings, trainers: TrainerFactory, graph: StageGraph) -> None:
        self.settings = settings
        self.trainers = trainers
        self.graph = graph
        self.base = Model("base", path=settings.base)
        self.recipes = self._checked_recipes()
        ProbeDataModule(**settings.probe)  # refuses what it cannot do
        self.tasks = self._load_tasks()
        self._models: dict[str, Model] = {}
        self.experts = {name: self._expert(name, expert) for name, expert in settings.experts.items()}

    def baseline_models(self) -> list[Model]:
        """The baselines of the recipe, in its order."""
        models: list[Model] = []
        for name in self.settings.baselines:
            if name == "base":
                models.append(self.base)
            elif name == "experts":
                models.extend(self.experts.values())
            elif name == "joint":
                models.append(self.trained("joint"))
            else:
                models.append(self._merge_baseline(name))
        return models

    def trained(self, name: str, chain: tuple[str, ...] = ()) -> Model:
        """The model that a recipe trains.

        Args:
            name: of the recipe.
            chain: recipes that wait for this one to be their start.
        """
        if name in chain:
            raise UserError(f"recipes start from each other in a circle: {' -> '.join([*chain, name])}")
        if name not in self._models:
            start = self._start(name, (*chain, name))
            self._models[name] = Model(name, stage=self._training_stage(name, start))
        return self._models[name]

    def expert_folders(self) -> dict[str, Expert]:
        """The experts as `MergeModule` takes them."""
        return {name: Expert(path=model.folder(self.graph)) for name, model in self.experts.items()}

    def probe_data(self) -> ProbeDataModule:
        """The probe rows of the recipe."""
        return ProbeDataModule(tasks=self.probe_tasks(), **self.settings.probe | {"task_weights": self.probe_weights()})

    def probe_tasks(self) -> list[SplitTask]:
        """The data sets that the position is learned on."""
        return [self.tasks[name] for name in self.probe_weights()]

    def probe_weights(self) -> dict[str, float]:
        """Data set to its part of the objective: the experts have equal parts, unless the recipe says otherwise."""
        given: dict[str, float] | None = self.settings.probe["task_weights"]
        if given is not None:
            return given
        groups = self._probe_groups()
        return {
            name: share / len(groups)
            for group in groups
            for name, share in _normalised({name: source.share for name, source in group.items()}).items()
        }

    def position_stage(
        self, method: dict[str, Any], train: Callable[[Path], None], name: str, options: dict[str, Any] | None = None
    ) -> Stage:
        """A stage that learns a position.

        Args:
            method: the merge method, as JSON.
            train: trains in a folder, and saves the model in ``model`` there.
            name: of the stage.
            options: arguments of MergeModule that differ from the recipe's.
        """
        data = {task.name: [task.probe.fingerprint(), task.validation.fingerprint()] for task in self.probe_tasks()}
        content = {
            **self._merge_content(method),
            "options": self.settings.options | (options or {}),
            "probe": self.settings.probe | {"task_weights": self.probe_weights()},
            "data": data,
            "trainer": self.trainers.settings(lengths=True),
        }
        return Stage("position", name, content, train, self._expert_stages())

    def _checked_recipes(self) -> dict[str, ExpertRecipe]:
        recipes = dict(self.settings.recipes)
        for name, expert in self.settings.experts.items():
            if (expert.path is None) == (expert.recipe is None):
                raise UserError(f"model.experts.{name}: give either a recipe or a path")
            if expert.recipe is not None and expert.recipe not in recipes:
                known = ", ".join(recipes) or "none"
                raise UserError(
                    f"model.experts.{name}.recipe: there is no recipe '{expert.recipe}' ({known} are there)"
                )
        unknown = [name for name in self.settings.baselines if name not in BASELINES]
        if unknown:
            raise UserError(f"baselines: '{unknown[0]}' is unknown; known are {', '.join(BASELINES)}")
        if "joint" in self.settings.baselines and "joint" not in recipes:
            experts = {e.recipe: recipes[e.recipe] for e in self.settings.experts.values() if e.recipe}
            if not experts:
                raise UserError("baselines: 'joint' needs recipes.joint where no expert has a recipe")
            recipes["joint"] = joint_recipe(experts)
        for name, recipe in recipes.items():
            if bool(recipe.data) == bool(recipe.mix):
                raise UserError(f"recipes.{name}: give either data or mix")
            for other in recipe.mix:
                if not recipes.get(other, ExpertRecipe()).data:
                    raise UserError(f"recipes.{name}.mix: '{other}' is not a recipe with data")
        return recipes

    def _load_tasks(self) -> dict[str, SplitTask]:
        """All data sets of all recipes, split together, so that no probe row is an expert row anywhere."""
        sources = {
            _task_name(name, source, recipe.data): replace(source, loss=source.loss or recipe.loss)
            for name, recipe in self.recipes.items()
            for source in recipe.data
        }
        probe = self.settings.probe
        groups = self._probe_groups()
        for group in groups:
            sources |= {name: source for name, source in group.items() if name not in sources}
        sizes = {name: 0 for name in sources}
        validation = dict(sizes)
        for name, weight in self.probe_weights().items():
            sizes[name] = round(weight * (probe["reserve"] or probe["size"]))
            validation[name] = round(weight * probe["validation_size"])
        tasks = load_tasks(sources, probe_size=sizes, validation_size=validation, seed=self.trainers.seed)
        for name in self.probe_weights():
            _refuse_small(f"the probe of {name}", tasks[name].probe, probe["batch_size"], "data.batch_size")
        return tasks

    def _probe_groups(self) -> list[dict[str, DataSource]]:
        """The probe's data sets by name, grouped by what has an equal part in the objective."""
        if self.settings.probe_sources:
            return [{source.name: source} for source in self.settings.probe_sources]
        groups = []
        for name, expert in self.settings.experts.items():
            if expert.recipe is None:
                raise UserError(f"data.tasks is needed: expert '{name}' is a folder, which has no rows to probe with")
            recipe = self.recipes[expert.recipe]
            named = {_task_name(expert.recipe, source, recipe.data): source for source in recipe.data}
            if named:
                groups.append(named)
        return groups

    def _recipe_tasks(self, recipe: ExpertRecipe, name: str) -> list[SplitTask]:
        """The data sets that a recipe trains on, with their shares."""
        if recipe.data:
            return [self.tasks[_task_name(name, source, recipe.data)] for source in recipe.data]
        natural = all(share is None for share in recipe.mix.values())
        tasks = []
        for other, share in recipe.mix.items():
            group = self._recipe_tasks(self.recipes[other], other)
            within = _normalised({task.name: task.share for task in group})
            weight = 1.0 if share is None else share
            tasks += [replace(task, share=None if natural else weight * within[task.name]) for task in group]
        return tasks

    def _expert(self, name: str, expert: Expert) -> Model:
        if expert.recipe is not None:
            return replace(self.trained(expert.recipe), name=name)
        return Model(name, path=expert.path)

    def _start(self, name: str, chain: tuple[str, ...]) -> Model:
        start = self.recipes[name].start
        if start == "base":
            return self.base
        return self.trained(start, chain) if start in self.recipes else Model("start", path=start)

    def _training_stage(self, name: str, start: Model) -> Stage:
        recipe = self.recipes[name]
        tasks = self._recipe_tasks(recipe, name)
        for task in tasks:
            _refuse_small(task.name, task.expert, recipe.batch_size, f"recipes.{name}.batch_size")
        arguments = {key: getattr(recipe, key) for key in ("lr", "warmup", "weight_decay")}
        content = {
            "start": start.identity(),
            "recipe": {k: v for k, v in asdict(recipe).items() if k not in ("data", "mix", "start", "loss")},
            "data": {t.name: [t.expert.fingerprint(), t.validation.fingerprint(), t.share] for t in tasks},
            "trainer": self.trainers.settings(lengths=False),
        }

        def train(folder: Path) -> None:
            rows = sum(len(task.expert) for task in tasks)
            rank_zero_info(
                f"  training {recipe.max_steps} steps on {rows:,} rows of {', '.join(t.name for t in tasks)}"
            )
            self.trainers.seed_stage()
            steps = (recipe.validate_every or recipe.max_steps) * self.trainers.config.accumulate_grad_batches
            trainer = self.trainers.make(
                name,
                [ResumableRun(folder)],
                max_steps=recipe.max_steps,
                max_epochs=-1,
                max_time=None,
                num_sanity_val_steps=0,
                val_check_interval=steps,
                check_val_every_n_epoch=None,
            )
            pooling = self.settings.options["pooling"]
            module = ContrastiveModule(start.folder(self.graph), pooling=pooling, **arguments)
            data = TaskDataModule(
                tasks, batch_size=recipe.batch_size, max_length=recipe.max_length, seed=self.trainers.seed
            )
            self.trainers.fit(trainer, module, data)
            if trainer.is_global_zero:
                module.save(folder / "model")

        return Stage("model", name, content, train, start.inputs)

    def _merge_baseline(self, name: str) -> Model:
        if name in FIXED_MERGES:
            return Model(name, stage=self._fixed_merge_stage(name, FIXED_MERGES[name]()))
        return Model(name, stage=self._learned_merge_stage(name))

    def _fixed_merge_stage(self, name: str, method: MergeMethod) -> Stage:
        def merge(folder: Path) -> None:
            self.collect_statistics(method)
            if is_main_process():
                self._merge_module(method, granularity="model").save(folder / "model")

        return Stage("merge", name, self._merge_content({"class_path": name}), merge, self._expert_stages())

    def _learned_merge_stage(self, name: str) -> Stage:
        method, options = LEARNED_MERGES[name]

        def train(folder: Path) -> None:
            callbacks = [ResumableRun(folder), CoefficientTrace(folder)]
            trainer = self.trainers.make(name, callbacks, num_sanity_val_steps=0)
            self.train_position(folder, self._merge_module(method(), **options), trainer, self.probe_data())

        return self.position_stage({"class_path": name}, train, name, options)

    def collect_statistics(self, method: MergeMethod) -> None:
        """Collect what a method needs of every expert's own training rows, beside the expert, if it is not there.

        Raises:
            UserError: an expert is a folder, so its rows are not known.
        """
        if method.statistics is None:
            return
        for name, expert in self.settings.experts.items():
            if expert.recipe is None:
                raise UserError(
                    f"{type(method).__name__} needs the training rows of expert '{name}', which is a folder"
                )
            if is_main_process():
                recipe = self.recipes[expert.recipe]
                folder = self.experts[name].folder(self.graph)
                encoder = TextEncoder.load(folder).to(self.trainers.device)
                parts = [task.expert for task in self._recipe_tasks(recipe, expert.recipe)]
                batches = partial(
                    first_batches,
                    parts,
                    method.rows,
                    recipe.batch_size,
                    partial(encoder.tokenize, max_length=recipe.max_length),
                )
                cut = (method.rows, recipe.batch_size, recipe.max_length)
                fingerprint = "-".join([*map(str, cut), *(part.fingerprint() for part in parts)])
                collect_statistics(method.statistics, encoder, folder, batches, fingerprint=fingerprint)
            barrier()

    def train_position(self, folder: Path, module: MergeModule, trainer: Trainer, data: LightningDataModule) -> None:
        """Train a position and save what came of it: the model, a checkpoint, the numbers.

        Args:
            folder: of the stage.
            module: at its start.
            trainer: with a `ResumableRun` on `folder`.
            data: the probe.
        """
        self.trainers.seed_stage()
        self.trainers.fit(trainer, module, data)
        trainer.save_checkpoint(folder / "last.ckpt", weights_only=True)
        if trainer.is_global_zero:
            module.save(folder / "model")
            found = {
                "objective": module.best["objective"],
                "passes": module.passes,
                "history": module.history,
                "position": module.describe_position(),
                "mean_position": module.mean_position(),
            }
            (folder / "position.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    def _merge_module(self, method: MergeMethod, **options: Any) -> MergeModule:
        arguments = self.settings.options | {"method": method, "search": self.settings.search} | options
        return MergeModule(self.settings.base, self.expert_folders(), **arguments)

    def _merge_content(self, method: dict[str, Any]) -> dict[str, Any]:
        given = [model.identity() for model in self.experts.values()]
        return {"base": self.base.identity(), "method": method, "experts": list(self.experts), "given": given}

    def _expert_stages(self) -> tuple[Stage, ...]:
        return tuple(stage for model in self.experts.values() for stage in model.inputs)


def _task_name(recipe: str, source: DataSource, data: list[DataSource]) -> str:
    """A recipe's only data set is called like the recipe."""
    return recipe if len(data) == 1 else f"{recipe}/{source.name}"


def _refuse_small(what: str, data: TaskData, batch_size: int, key: str) -> None:
    """Say before anything is trained what a data module would say when it is needed."""
    if len(data) < batch_size:
        raise UserError(f"{what} has {len(data)} rows, less than a batch of {batch_size}: lower batch_size ({key})")


def _normalised(shares: dict[str, float | None]) -> dict[str, float]:
    """Shares that add up to 1; equal ones where none are given."""
    weights = {name: 1.0 if share is None else share for name, share in shares.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}
