"""A study: the rows of a comparison, and what is chosen among them; all of it stages of one graph."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from lightning_app.recipe.model_recipes import MergeRecipe
from lightning_app.recipe.named_merges import MAIN
from lightning_app.recipe.run_settings import RecipeSettings
from lightning_app.recipe.study_recipe import StudyRecipe, resampled_recipes, shortened_recipes
from lightning_app.stages.model import Model
from lightning_app.stages.pipeline import Pipeline
from lightning_app.stages.prober import Prober
from lightning_app.stages.scorer import Scorer
from lightning_app.stages.stage_graph import Stage, StageGraph
from lightning_app.stages.trainers import TrainerFactory
from modules import Slerp, UserError

KINDS = {"joint": "joint model", "fixed": "fixed merge", "learned": "learned merge"}
"""What a row may be the best of."""

SCORED_FAMILIES = ("resampling", "order")


@dataclass(frozen=True)
class Row:
    """A model of the study.

    Args:
        name: as tables call it.
        model: what it is.
        kind: one of `KINDS`, or ``""``.
        family: the sweep that it belongs to, which has a table of its own; ``""``: it is in the main table.
        value: what is varied in the family.
    """

    name: str
    model: Model
    kind: str = ""
    family: str = ""
    value: float = 0.0


class Study:
    """Knows the rows of a study and runs their stages.

    Args:
        settings: the recipe's other sections.
        recipe: its section ``study``.
        trainers: makes the Trainer of each stage.
        graph: runs the stages.
        scorer: scores models on the recipe's tasks.
        full: scores the few that count on the same tasks without caps.

    Raises:
        UserError: the study asks for something that the recipe does not have.
    """

    def __init__(
        self,
        settings: RecipeSettings,
        recipe: StudyRecipe,
        trainers: TrainerFactory,
        graph: StageGraph,
        scorer: Scorer,
        full: Scorer,
    ) -> None:
        self.recipe, self.graph, self.scorer, self.full = recipe, graph, scorer, full
        plain = Pipeline(settings, trainers, graph)
        with_data = [name for name, recipe in plain.recipes.items() if recipe.data]
        counts = {name: plain.data.rows(name) for name in with_data}
        resampled = resampled_recipes(recipe.resampling, plain.recipes, counts)
        experts = {e.recipe: plain.recipes[e.recipe] for e in settings.experts.values() if e.recipe}
        self.shortened = list(shortened_recipes(recipe.sizes, experts))
        recipes = plain.recipes | resampled | {name: recipe for _, _, name, recipe in self.shortened}
        sweeps = list(self._sweeps(plain))
        merges = settings.merges | {name: merge for _, name, _, merge in sweeps}
        self.pipeline = Pipeline(replace(settings, recipes=recipes, merges=merges), trainers, graph)
        self.base = Row("base", self.pipeline.base)
        self.prober = Prober(trainers, graph, self.pipeline.data, self.base.model, settings.loading)
        self.rows = [Row(m.name, m, self._kind(m.name)) for m in self.pipeline.baseline_models()]
        if all(row.name != MAIN for row in self.rows):
            self.rows.append(self._row(MAIN))
        self.rows += [self._row(name, "resampling") for name in resampled]
        self.rows += [self._row(name, family, value) for family, name, value, _ in sweeps]
        self.rows += list(self._other_orders_of_batches())

    @property
    def main_rows(self) -> list[Row]:
        """The rows of the main table; of the resampled joint models only the one that the probe chooses."""
        rows = [row for row in self.rows if not row.family]
        resampled = self.family("resampling")
        if resampled:
            best = self.best(resampled)
            rows.insert(len(rows) - 1, replace(best, name=f"resampled ({best.name})", family=""))
        return rows

    def family(self, name: str) -> list[Row]:
        """The rows of a sweep."""
        return [row for row in self.rows if row.family == name]

    def best(self, rows: list[Row]) -> Row:
        """The row with the lowest objective on the probe-validation rows."""
        return min(rows, key=self.objective)

    def candidates(self, kind: str) -> list[Row]:
        """The rows among which the best of a kind is chosen: those of the main table, and resampled joint models."""
        return [row for row in self.rows if row.kind == kind and row.family in ("", "resampling")]

    def objective(self, row: Row) -> float:
        """The mean loss on the probe-validation rows relative to the base's, without a regulariser."""
        return self.prober.objective(row.model)

    @cached_property
    def headline(self) -> dict[str, Row]:
        """Of each kind that there is, the row that the probe-validation rows choose, once all are there."""
        return {kind: self.best(rows) for kind in KINDS if (rows := self.candidates(kind))}

    def final_rows(self) -> list[Row]:
        """The rows that are scored on whole tasks: the base, and the best of each kind."""
        return [self.base, *self.headline.values()]

    @cached_property
    def seeded(self) -> dict[str, list[Row]]:
        """Of each headline row, the same model from the other seeds: its experts, too, are trained anew."""
        pipelines = {seed: self.pipeline.with_seed(seed) for seed in self.recipe.seeds}
        return {
            kind: [
                Row(f"{row.name}, seed {seed}", pipeline.model(row.model.name), value=seed)
                for seed, pipeline in pipelines.items()
            ]
            for kind, row in self.headline.items()
        }

    def known_stages(self) -> list[Stage]:
        """All stages that do not depend on what others find, in the order in which they are run."""
        found = []
        for row in [self.base, *self.rows]:
            found += [*row.model.inputs, self.prober.stage(row.model)]
        found += [stage for _, _, name, _ in self.shortened for stage in self.pipeline.model(name).inputs]
        return found + [self.scorer.stage(row.model, self.graph) for row in self.scored_rows()]

    def scored_rows(self) -> list[Row]:
        """The rows that are scored on MTEB tasks."""
        rows = [row for row in self.rows if not row.family or row.family in SCORED_FAMILIES]
        return rows if any(row.name == "base" for row in rows) else [self.base, *rows]

    def run(self) -> None:
        """Run all stages up to the scores of the best rows: on whole tasks, and from the other seeds."""
        for stage in self.known_stages():
            self.graph.run(stage)
        for row in self.final_rows():
            self.graph.run(self.full.stage(row.model, self.graph))
        for rows in self.seeded.values():
            for row in rows:
                for stage in [
                    *row.model.inputs,
                    self.prober.stage(row.model),
                    self.scorer.stage(row.model, self.graph),
                ]:
                    self.graph.run(stage)

    def _row(self, name: str, family: str = "", value: float = 0.0) -> Row:
        return Row(name, self.pipeline.model(name), self._kind(name), family, value)

    def _kind(self, name: str) -> str:
        if name in self.pipeline.recipes:
            recipe = self.pipeline.recipes[name]
            return "joint" if recipe.mix and recipe.rows == "expert" else ""
        if name not in self.pipeline.merges:
            return ""
        merge = self.pipeline.merges[name]
        if merge.weighting == "learned":
            return "learned"
        return "joint" if len(merge.experts) == 1 else "fixed"

    def _sweeps(self, plain: Pipeline) -> Iterator[tuple[str, str, float, MergeRecipe]]:
        """Positions learned with another mu, on another probe, in another order: family, name, value, recipe."""
        sensitivity = self.recipe.sensitivity
        of = plain.merges.get(sensitivity.of)
        if of is None or of.weighting != "learned":
            raise UserError(f"study.sensitivity.of: '{sensitivity.of}' is not a learned merge")
        for mu in sensitivity.mu:
            yield "mu", f"mu {mu:g}", mu, replace(of, mu=mu)
        steps = plain.merge_stages.steps(of)
        for size in sensitivity.probe_size:
            yield "probe size", f"probe {size}", size, replace(of, probe_size=size, max_steps=steps)
        names = of.experts or list(plain.experts)
        for i, order in enumerate(itertools.islice(itertools.permutations(names), self.recipe.orders)):
            yield "order", f"order {', '.join(order)}", i, replace(of, method=Slerp(order=list(order)))

    def _other_orders_of_batches(self) -> Iterator[Row]:
        """Return the same position on the same experts, learned with other random numbers."""
        of = self.recipe.sensitivity.of
        merge = self.pipeline.merge(of)
        for seed in self.recipe.sensitivity.seeds:
            name = f"batches {seed}"
            yield Row(
                name, Model(name, stage=self.pipeline.merge_stages.with_seed(seed).stage(name, merge)), "", "seed", seed
            )
