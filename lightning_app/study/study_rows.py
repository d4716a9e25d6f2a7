"""A study: the rows of a comparison, and what is chosen among them; all of it stages of one graph."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from lightning_app.recipe.model_recipes import MergeRecipe
from lightning_app.recipe.named_merges import MAIN
from lightning_app.recipe.study_recipe import StudyRecipe, resampled_recipes, shortened_recipes
from lightning_app.report.model_kinds import KINDS
from lightning_app.stages.model import Model
from lightning_app.stages.recipe_models import RecipeModels
from lightning_app.stages.score import Score
from lightning_app.stages.scorer import Scorer
from lightning_app.stages.stage_graph import Stage, StageGraph
from lightning_app.study.objectives import Objectives
from modules import Slerp, UserError

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
        models: the recipe's.
        recipe: its section ``study``.
        graph: runs the stages.
        scorer: scores models on the recipe's tasks.
        full: scores the few that count on the same tasks without caps.

    Raises:
        UserError: the study asks for something that the recipe does not have.
    """

    def __init__(
        self, models: RecipeModels, recipe: StudyRecipe, graph: StageGraph, scorer: Scorer, full: Scorer
    ) -> None:
        self.recipe, self.graph, self.scorer, self.full = recipe, graph, scorer, full
        settings = models.settings
        with_data = [name for name, recipe in models.recipes.items() if recipe.data]
        counts = {name: models.data.rows(name) for name in with_data}
        resampled = resampled_recipes(recipe.resampling, models.recipes, counts)
        experts = {e.recipe: models.recipes[e.recipe] for e in settings.experts.values() if e.recipe}
        self.shortened = list(shortened_recipes(recipe.sizes, experts))
        recipes = models.recipes | resampled | {name: recipe for _, _, name, recipe in self.shortened}
        sweeps = list(self._sweeps(models))
        merges = settings.merges | {name: merge for _, name, _, merge in sweeps}
        self.models = models.with_settings(replace(settings, recipes=recipes, merges=merges))
        self.base = Row("base", self.models.base)
        validation = self.models.trainer.of_validation()
        self.objectives = Objectives(self.models.data.probe(), self.models.base, validation, graph)
        self.rows = [Row(m.name, m, self._kind(m.name)) for m in self.models.baseline_models()]
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
        return self.objectives.objective(row.model)

    def probe_score(self, row: Row) -> float:
        """The mean score x 100 on the probe-validation rows, on which nothing is chosen."""
        return self.objectives.score(row.model)

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
        others = {seed: self.models.with_seed(seed) for seed in self.recipe.seeds}
        return {
            kind: [
                Row(f"{row.name}, seed {seed}", models.model(row.model.name), value=seed)
                for seed, models in others.items()
            ]
            for kind, row in self.headline.items()
        }

    def score(self, row: Row, *, full: bool = False) -> Score:
        """Return the stage that scores a row.

        Args:
            row: of the study.
            full: on whole tasks.
        """
        return Score(row.model.name, row.model, self.full if full else self.scorer)

    def known_stages(self) -> list[Stage]:
        """All stages that do not depend on what others find, in the order in which they are run."""
        found = []
        for row in [self.base, *self.rows]:
            found += [*row.model.inputs, self.objectives.stage(row.model)]
        found += [self.objectives.score_stage(row.model) for row in [self.base, *self.scored_rows()]]
        found += [stage for _, _, name, _ in self.shortened for stage in self.models.model(name).inputs]
        return found + [self.score(row) for row in self.scored_rows()]

    def scored_rows(self) -> list[Row]:
        """The rows that are scored on MTEB tasks."""
        rows = [row for row in self.rows if not row.family or row.family in SCORED_FAMILIES]
        return rows if any(row.name == "base" for row in rows) else [self.base, *rows]

    def run(self) -> None:
        """Run all stages up to the scores of the best rows: on whole tasks, and from the other seeds."""
        self.graph.run_all(self.known_stages())
        final = [self.score(row, full=True) for row in self.final_rows()]
        seeded = [row for rows in self.seeded.values() for row in rows]
        others = [[*row.model.inputs, self.objectives.stage(row.model), self.score(row)] for row in seeded]
        self.graph.run_all([*final, *itertools.chain(*others)])

    def _row(self, name: str, family: str = "", value: float = 0.0) -> Row:
        return Row(name, self.models.model(name), self._kind(name), family, value)

    def _kind(self, name: str) -> str:
        if name in self.models.recipes:
            recipe = self.models.recipes[name]
            return "joint" if recipe.mix and recipe.rows == "expert" else ""
        if name not in self.models.merges:
            return ""
        merge = self.models.merges[name]
        if merge.weighting == "learned":
            return "learned"
        return "joint" if len(merge.experts) == 1 else "fixed"

    def _sweeps(self, models: RecipeModels) -> Iterator[tuple[str, str, float, MergeRecipe]]:
        """Positions learned with another mu, on another probe, in another order: family, name, value, recipe."""
        sensitivity = self.recipe.sensitivity
        of = models.merges.get(sensitivity.of)
        if of is None or of.weighting != "learned":
            raise UserError(f"study.sensitivity.of: '{sensitivity.of}' is not a learned merge")
        for mu in sensitivity.mu:
            yield "mu", f"mu {mu:g}", mu, replace(of, mu=mu)
        steps = models.learned(sensitivity.of).steps if sensitivity.probe_size else 0
        for size in sensitivity.probe_size:
            yield "probe size", f"probe {size}", size, replace(of, probe_size=size, max_steps=steps)
        names = of.experts or list(models.experts)
        for i, order in enumerate(itertools.islice(itertools.permutations(names), self.recipe.orders)):
            yield "order", f"order {', '.join(order)}", i, replace(of, method=Slerp(order=list(order)))

    def _other_orders_of_batches(self) -> Iterator[Row]:
        """The same position on the same experts, learned with other random numbers."""
        stage = self.models.learned(self.recipe.sensitivity.of)
        for seed in self.recipe.sensitivity.seeds:
            name = f"batches {seed}"
            probe = replace(stage.probe, arguments=stage.probe.arguments | {"seed": seed})
            other = replace(stage, name=name, probe=probe, trainer=replace(stage.trainer, seed=seed))
            yield Row(name, Model(name, stage=other, loading=self.models.loading), "", "seed", seed)
