"""The stages that merge models: at given coefficients, the best of several, or at a learned position."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from callbacks import CoefficientTrace, CostMeter, ResumableRun
from datamodules.task_datamodule import first_batches
from lightning_app.recipe.model_recipes import MergeRecipe
from lightning_app.recipe.named_merges import MAIN
from lightning_app.recipe.recipe_data import RecipeData
from lightning_app.stages.loading import Loading, is_plain
from lightning_app.stages.model import Model
from lightning_app.stages.stage_graph import Stage, StageGraph, is_main_process
from lightning_app.stages.trainers import TrainerFactory
from modules import Bfgs, MergeMethod, MergeModule, Search, Slerp, TaskArithmetic, UserError
from modules.distributed import barrier
from modules.encoding.prompts import Side, describe_prompts, folder_prompts, prompts_by_side
from modules.json_files import read_json, write_json
from modules.merging.collect_statistics import collect_statistics
from modules.merging.describe import describe
from modules.merging.weightings import greedy_soup, inverse_norm, lm_cocktail, size_weighted

BACKWARD = 3
"""Passes that a text counts for which is trained on."""

POSITION = "position.json"
"""What a stage that merges found."""


@dataclass(frozen=True)
class Merge:
    """One merge with everything it refers to.

    Args:
        recipe: how.
        start: what the task vectors are taken against.
        experts: by name, in the order of the merge.
        rows: name of each expert to the recipe whose rows it was trained on; None: not known.
        initial: the learned merge whose position is the start.
        reference: losses are relative to this model's; None: to those of `start`.
    """

    recipe: MergeRecipe
    start: Model
    experts: dict[str, Model]
    rows: dict[str, str | None]
    initial: Model | None = None
    reference: Model | None = None

    @property
    def inputs(self) -> tuple[Stage, ...]:
        """Stages whose results it reads."""
        models = [self.start, *self.experts.values(), *([self.initial] if self.initial else [])]
        return tuple(stage for model in models for stage in model.inputs)


@dataclass(frozen=True)
class Candidate:
    """A position that is tried.

    Args:
        label: what was chosen to get there.
        a: the free numbers ``[N]``; None: as they are.
        scale: of the merged task vector.
    """

    label: dict[str, float | bool]
    a: Tensor | None
    scale: float


class MergeStages:
    """Builds the stages of merges.

    Args:
        options: arguments of `MergeModule` that a recipe's merges share; ``method`` and ``search`` among them.
        loading: how models are loaded.
        trainers: makes the Trainer of each stage.
        graph: runs the stages.
        data: has the probe.
    """

    def __init__(
        self, options: dict[str, Any], loading: Loading, trainers: TrainerFactory, graph: StageGraph, data: RecipeData
    ) -> None:
        self.options, self.loading, self.trainers, self.graph, self.data = options, loading, trainers, graph, data

    def with_seed(self, seed: int) -> "MergeStages":
        """Return the same merges with other random numbers, the order of the probe's batches among them."""
        trainers, data = self.trainers.with_seed(seed), self.data.with_order(seed)
        return MergeStages(self.options, self.loading, trainers, self.graph, data)

    def stage(self, name: str, merge: Merge) -> Stage:
        """The stage that makes a merge.

        Raises:
            UserError: the recipe cannot be followed with these experts.
        """
        method = self.method(merge)
        method.places(list(merge.experts))  # what is wrong with it shows before training
        if merge.recipe.mu is not None and not method.has_scale:
            raise UserError(
                f"merges.{name}.mu: it weighs the scale, and {type(method).__name__} has none; leave it out"
            )
        return self._learned(name, merge) if merge.recipe.weighting == "learned" else self._fixed(name, merge)

    def method(self, merge: Merge) -> MergeMethod:
        """Return the method that combines the task vectors."""
        if merge.recipe.weighting not in ("learned", "equal"):
            return TaskArithmetic()
        method: MergeMethod = merge.recipe.method or self.options["method"] or Slerp()
        return method

    def module(self, merge: Merge, **options: Any) -> MergeModule:
        """The experts and their start in memory, at the start of the merge's position; they must be made already.

        Args:
            merge: which experts, and how they are merged.
            options: arguments of `MergeModule` that win over all others.
        """
        folders = {name: model.folder(self.graph) for name, model in merge.experts.items()}
        start = merge.start.folder(self.graph)
        module = MergeModule(start, folders, **self._arguments(merge) | self.loading.options(start) | options)
        if merge.reference is not None:
            reference = merge.reference.folder(self.graph)
            module.relative_to(reference, pooling=self.loading.options(reference)["pooling"])
        self.take_prompts(module, merge)
        return module

    def settings_of(self, merge: Merge) -> str | None:
        """Return whose longest text and prompts a merge has: as the recipe says; None: the models must agree.

        Experts that were trained on data sets with prompts of their own differ in these from their start, whose
        settings count then; `take_prompts` adds the prompts.
        """
        given: str | None = self.options["settings_of"]
        if given in ("base", *merge.experts):
            return given
        trained = [name for name, model in merge.experts.items() if model.stage is not None]
        if not trained or not self.data.has_prompts:
            return None  # a name that is given is that of an expert of other merges
        return trained[0] if merge.start.path is not None and is_plain(merge.start.path) else "base"

    def take_prompts(self, module: MergeModule, merge: Merge) -> None:
        """Have a merge name the prompts that its experts were trained with, unless the recipe says whose it has.

        Args:
            module: the experts in memory.
            merge: which they are.
        """
        if self.settings_of(merge) == self.options["settings_of"]:
            return
        module.set_prompts(*folder_prompts(merge.start.folder(self.graph)))
        data: dict[str, dict[Side, str | None]] = {}
        for expert, recipe in merge.rows.items():
            if recipe is not None:
                own = prompts_by_side(*folder_prompts(merge.experts[expert].folder(self.graph)))
                data |= {task.name: task.expert.with_prompts(own).side_prompts() for task in self.data.of(recipe)}
        module.take_prompts(data)
        said = describe_prompts(module.side_prompts)
        rank_zero_info(f"  prompts of the merge, by what its experts were trained with: {said}")

    def steps(self, recipe: MergeRecipe) -> int:
        """Return how many optimiser steps the learning of a position takes at most."""
        if recipe.max_steps is not None:
            return recipe.max_steps
        trainer, probe = self.trainers.config, self.data.probe_arguments
        if trainer.max_steps > 0:
            return int(trainer.max_steps)
        batches = (recipe.probe_size or probe["size"]) // probe["batch_size"]
        return int((trainer.max_epochs or 1) * (1 if self.search(recipe).full_probe else batches))

    def search(self, recipe: MergeRecipe) -> Search:
        """Return the search of a learned merge."""
        search: Search = recipe.search or self.options["search"] or Bfgs()
        return search

    def identity(self, merge: Merge) -> dict[str, Any]:
        """Return the models that a merge is between: what a stage's key must hold beside the stages that made them."""
        given = [model.identity(self.loading) for model in merge.experts.values()]
        found = {"base": merge.start.identity(self.loading), "experts": list(merge.experts), "given": given}
        return found if merge.reference is None else found | {"reference": merge.reference.identity(self.loading)}

    def _learned_content(self, name: str, merge: Merge) -> dict[str, Any]:
        """All that determines a learned position, inputs aside."""
        method, search = self.method(merge), self.search(merge.recipe)
        # How models are loaded is in their identities, and what may be merged changes nothing of what is.
        aside = {"pooling", "trust_remote_code", "attn_implementation", "allow_suspicious"} | (
            set() if method.has_scale else {"mu"}
        )
        options = {key: value for key, value in self._arguments(merge).items() if key not in aside}
        content = {
            **self.identity(merge),
            "options": options | {"method": describe(method), "search": describe(search)},
            **self.data.probe_content(merge.recipe.probe_size),
            "trainer": self.trainers.settings("position", search),
        }
        if name == MAIN:
            content |= self.trainers.own
        if merge.recipe.max_steps is not None:
            content["max_steps"] = merge.recipe.max_steps
        if merge.initial is not None:
            content["initial"] = merge.initial.name
        return content

    def collect_statistics(self, merge: Merge) -> None:
        """Collect what a method needs of every expert's own training rows, beside the expert, if it is not there.

        Raises:
            UserError: it is not known what an expert was trained on.
        """
        method = self.method(merge)
        if method.statistics is None:
            return
        for name, expert in merge.experts.items():
            recipe_name = merge.rows[name]
            if recipe_name is None:
                raise UserError(
                    f"{type(method).__name__} needs the training rows of '{name}', which is a folder or a merge"
                )
            if is_main_process():
                recipe = self.data.recipes[recipe_name]
                folder = expert.folder(self.graph)
                encoder = self.loading.load(folder).to(self.trainers.device)
                prompts = prompts_by_side(encoder.prompts, encoder.default_prompt_name)
                parts = [task.expert.with_prompts(prompts) for task in self.data.of(recipe_name)]
                tokenize = partial(encoder.tokenize, max_length=recipe.max_length)
                batches = partial(first_batches, parts, method.rows, recipe.batch_size, tokenize)
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
        rank_zero_info(f"  {module.best.ending}")
        trainer.save_checkpoint(folder / "last.ckpt", weights_only=True)
        if trainer.is_global_zero:
            module.save(folder / "model")
            found = {
                "objective": module.best.objective,
                "passes": module.passes,
                "history": module.best.history,
                "ending": asdict(module.best.ending),
                "position": module.describe_position(),
                "mean_position": module.mean_position(),
            }
            write_json(folder / POSITION, found)

    def _learned(self, name: str, merge: Merge) -> Stage:
        def train(folder: Path) -> None:
            self.collect_statistics(merge)
            module = self.module(merge)
            if merge.initial is not None:
                module.start_from(_position_of(merge.initial, self.graph))
            lengths = {} if merge.recipe.max_steps is None else {"max_steps": merge.recipe.max_steps, "max_epochs": -1}
            callbacks = [ResumableRun(folder), CoefficientTrace(folder), CostMeter(folder)]
            unusable = self.trainers.unusable(self.search(merge.recipe), say=True)
            trainer = self.trainers.make(name, callbacks, num_sanity_val_steps=0, **unusable, **lengths)
            self.train_position(folder, module, trainer, self.data.probe(merge.recipe.probe_size))

        texts = 2 * BACKWARD * self.steps(merge.recipe) * self.data.probe_arguments["batch_size"]
        return Stage("position", name, self._learned_content(name, merge), train, merge.inputs, texts)

    def _fixed(self, name: str, merge: Merge) -> Stage:
        recipe = merge.recipe
        content = {
            **self.identity(merge),
            "method": describe(self.method(merge)),
            "granularity": self._arguments(merge)["granularity"],
            "settings_of": self._arguments(merge)["settings_of"],
            "weighting": recipe.weighting,
            "scales": recipe.scales,
            "temperatures": recipe.temperatures,
        }
        if recipe.weighting == "size":
            content["rows"] = self._row_counts(merge)
        if len(recipe.scales) > 1 or recipe.weighting in ("lm_cocktail", "greedy"):
            content |= self.data.probe_content() | {"trainer": self.trainers.settings("validation")}

        def run(folder: Path) -> None:
            self.collect_statistics(merge)
            module = self.module(merge)
            trainer = self.trainers.make_silent(name)
            candidates = self._candidates(merge, module, trainer)
            objectives = [0.0]
            if len(candidates) > 1:
                objectives = self._objectives(module, trainer, self.data.probe(), candidates)
            best = min(range(len(candidates)), key=objectives.__getitem__)
            module.position.stand_at(candidates[best].a, candidates[best].scale)
            if is_main_process():
                module.save(folder / "model")
                tried = [c.label | {"objective": value} for c, value in zip(candidates, objectives, strict=True)]
                found = {"position": module.describe_position(), "mean_position": module.mean_position()}
                write_json(folder / POSITION, found | ({"tried": tried} if len(tried) > 1 else {}))

        tried = max(1, len(recipe.scales)) * max(1, 2 * len(recipe.temperatures))
        texts = 0 if tried == 1 else 2 * tried * self.data.probe_arguments["validation_size"]
        return Stage("merge", name, content, run, merge.inputs, texts)

    def _candidates(self, merge: Merge, module: MergeModule, trainer: Trainer) -> list[Candidate]:
        """All positions that a fixed weighting tries."""
        scales = merge.recipe.scales or [1.0]
        free = module.position.method.has_scale
        return [
            Candidate(label | {"scale": scale}, a if free or a is None else scale * a, scale if free else 1.0)
            for label, a in self._weightings(merge, module, trainer)
            for scale in scales
        ]

    def _weightings(
        self, merge: Merge, module: MergeModule, trainer: Trainer
    ) -> list[tuple[dict[str, float | bool], Tensor | None]]:
        """Return the coefficients of a weighting before the scale: one choice, or those that its settings leave."""
        recipe, experts = merge.recipe, len(merge.experts)
        if recipe.weighting == "equal":
            return [({}, None if module.position.method.has_scale else torch.ones(experts, dtype=torch.float64))]
        if recipe.weighting == "size":
            return [({}, size_weighted(self._row_counts(merge)))]
        if recipe.weighting == "inverse_norm":
            return [({}, inverse_norm(module.position.grams[0]))]
        one_hot = [Candidate({}, row, 1.0) for row in torch.eye(experts, dtype=torch.float64)]
        evaluate = partial(self._objectives, module, trainer, self.data.losses_on_probe())
        losses = evaluate(one_hot)
        if recipe.weighting == "greedy":
            return [({}, greedy_soup(losses, lambda a: evaluate([Candidate({}, a, 1.0)])[0]))]
        return [
            ({"temperature": t, "with_start": member}, lm_cocktail(losses, t, 1.0 if member else None))
            for t in recipe.temperatures
            for member in (False, True)  # losses are relative to the start's, which is 1
        ]

    def _objectives(
        self, module: MergeModule, trainer: Trainer, data: LightningDataModule, candidates: Sequence[Candidate]
    ) -> list[float]:
        """The objective at each candidate, on the validation rows of a data module."""
        found = []
        for candidate in candidates:
            module.position.stand_at(candidate.a, candidate.scale)
            trainer.validate(module, datamodule=data, verbose=False)
            found.append(float(trainer.callback_metrics["val/loss"]))
        return found

    def _row_counts(self, merge: Merge) -> list[int]:
        for name, recipe in merge.rows.items():
            if recipe is None:
                raise UserError(
                    f"a weighting by size needs the training rows of '{name}', which is a folder or a merge"
                )
        return [self.data.rows(recipe) for recipe in merge.rows.values() if recipe is not None]

    def _arguments(self, merge: Merge) -> dict[str, Any]:
        """The arguments of MergeModule: the recipe's own win over those of the section ``model``."""
        own = {key: getattr(merge.recipe, key) for key in ("granularity", "signed", "mu", "pull", "search")}
        arguments = self.options | {key: value for key, value in own.items() if value is not None}
        arguments["method"] = self.method(merge)
        arguments["settings_of"] = self.settings_of(merge)
        if merge.recipe.weighting != "learned":
            # Fixed weightings are of whole task vectors, and some are 0.
            arguments["signed"] = merge.recipe.weighting != "equal"
            arguments["granularity"] = merge.recipe.granularity or "model"
        return arguments


def _position_of(model: Model, graph: StageGraph) -> Mapping[str, float]:
    if model.stage is None or model.stage.kind != "position":
        raise UserError(f"'{model.name}' is no learned merge: there is no position to start from")
    position: dict[str, float] = read_json(graph.folder(model.stage) / POSITION)["position"]
    return position
