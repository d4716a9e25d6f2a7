"""The report of a study: the verdict, and the tables and pictures behind it."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from statistics import fmean

import numpy as np
from torch import Tensor

from callbacks import GradientConflict
from callbacks.mteb.task_cap import full_name
from lightning_app.report.conflict_pictures import (
    JointDirection,
    SizedExpert,
    TaskScores,
    direction_against_share,
    gradient_cosines,
    norm_against_examples,
    task_conflict,
)
from lightning_app.report.cost import cost_of
from lightning_app.report.differences import differences_table
from lightning_app.report.landscape_picture import Plane, loss_landscape
from lightning_app.report.model_pictures import ModelPoint, score_against_cost, trade_off
from lightning_app.report.pictures import Picture, styles_of
from lightning_app.report.position_path import read_path
from lightning_app.report.position_pictures import (
    Sweep,
    position_along_training,
    score_against_scale,
    score_against_weight,
    sensitivity_to_mu,
    sensitivity_to_probe_size,
    sensitivity_to_seed,
)
from lightning_app.report.probe_section import probe_section
from lightning_app.report.section import Section
from lightning_app.report.table import Table
from lightning_app.report.verdict import Verdict
from lightning_app.stages.geometry import Geometry, read_gram
from lightning_app.stages.model import Model
from lightning_app.stages.survey import Point
from lightning_app.study.study_rows import Row, Study
from lightning_app.study.study_tables import StudyTables
from lightning_app.study.study_verdict import study_verdict
from lightning_app.study.surroundings import Surroundings

SWEEPS = {"mu": sensitivity_to_mu, "probe size": sensitivity_to_probe_size, "seed": sensitivity_to_seed}


class StudyReport:
    """Puts together what a study found.

    Args:
        study: whose stages have run.
        tables: its tables.
        surroundings: measures around its position.
    """

    def __init__(self, study: Study, tables: StudyTables, surroundings: Surroundings) -> None:
        self.study, self.tables, self.surroundings = study, tables, surroundings
        self.styles = styles_of([*surroundings.path.chosen, *study.models.experts, *study.models.recipes])
        self.task_styles = styles_of(map(full_name, tables.types))

    def sections(self) -> list[Section]:
        """Return the parts of the report, the verdict first; those that a fit has, too, in its order."""
        tables = self.tables
        sections = [
            self.verdict.section(),
            Section("The models", tables=[tables.main(), self.differences()], pictures=self.models()),
            Section("What was compared", tables=self.compared()),
            Section("The positions", tables=[tables.positions()], pictures=self.position()),
            probe_section(tables.learned()),
            Section("Cost", tables=[tables.costs()], pictures=[self.costs()]),
            Section("The data", tables=[tables.rows()]),
            Section("Conflict and imbalance", pictures=self.conflict()),
            Section("What the position depends on", pictures=self.sensitivity()),
        ]
        return [section for section in sections if section]

    @cached_property
    def verdict(self) -> Verdict:
        """The model to take."""
        return study_verdict(self.study, self.tables.loaded, self.tables.parts())

    def differences(self) -> Table:
        """Return how sure the differences are between the chosen model and the others."""
        name = self.verdict.chosen.name
        return differences_table(f"{name} minus each other row:", name, self.verdict.gains, self.tables.tasks)

    def compared(self) -> list[Table]:
        """Return the tables of the choices, and of the sweeps that have scores."""
        tables = self.tables
        found = [
            tables.final(),
            tables.choices(),
            tables.probe_scores(),
            tables.differences(),
            tables.seeds(),
            tables.resampling(),
            tables.orders(),
        ]
        return [table for table in found if table is not None]

    def models(self) -> list[Picture]:
        """Return for each expert with tasks of its own how all models do on these, and on the others."""
        every = len(self.tables.types)
        owned = {expert: tasks for expert, tasks in self.tables.owned.items() if 0 < len(tasks) < every}
        return [trade_off(expert, self._trade_off(tasks)) for expert, tasks in owned.items()]

    def costs(self) -> Picture:
        """Return the mean score of every model against its cost."""
        graph, points = self.study.graph, []
        for row in self.study.main_rows:
            cost = cost_of(row.model.inputs, graph, inputs=True)
            points.append(ModelPoint(row.name, row.kind, cost.flops / 1e12, self.tables.average(row)))
        return score_against_cost(points)

    def _trade_off(self, tasks: Sequence[str]) -> list[ModelPoint]:
        points = []
        for row in self.study.main_rows:
            scores = self.tables.scores(row)
            others = fmean(score for task, score in scores.items() if task not in tasks)
            points.append(ModelPoint(row.name, row.kind, others, fmean(scores[task] for task in tasks)))
        return points

    def conflict(self) -> list[Picture]:
        """Experts against the joint model, gradients, norms and directions."""
        return [p for p in (self._task_conflict(), self._gradients(), self._norms(), self._directions()) if p]

    def position(self) -> list[Picture]:
        """The way of the position, and what is around it."""
        path = self.surroundings.path
        pictures = [position_along_training(path.steps, path.coefficients, path.scale, self.styles)]
        if self.study.recipe.points:
            weights, points = self.surroundings.weights()
            pictures.append(
                score_against_weight(
                    weights, _columns(points), self.surroundings.weight, self.surroundings.plane, self.task_styles
                )
            )
            scales, points = self.surroundings.scales()
            pictures.append(score_against_scale(scales, _columns(points), path.chosen_scale, self.task_styles))
        if self.study.recipe.grid:
            pictures.append(self._landscape())
        return pictures

    def sensitivity(self) -> list[Picture]:
        """Positions learned with another mu, probe, seed."""
        pictures = []
        of = self.study.recipe.sensitivity.of
        for family, picture in SWEEPS.items():
            rows = self.study.family(family)
            if rows:
                own = Row(of, self.study.models.model(of), value=self._own_value(family))
                rows = sorted([*rows, own], key=lambda row: row.value)
                pictures.append(picture(self._sweep(rows), self.styles))
        return pictures

    def _own_value(self, family: str) -> float:
        """Return the value that the main position was learned with."""
        stage = self.surroundings.stage
        if family == "mu":
            return float(stage.mu)
        return float(stage.probe.arguments["size" if family == "probe size" else "seed"])

    def _sweep(self, rows: Sequence[Row]) -> Sweep:
        stages = [row.model.stage for row in rows if row.model.stage is not None]
        paths = [read_path(self.study.graph.folder(stage)) for stage in stages]
        coefficients = {name: [path.chosen[name] for path in paths] for name in paths[0].chosen}
        scales = [path.chosen_scale for path in paths]
        return Sweep([row.value for row in rows], coefficients, scales, [self.study.objective(row) for row in rows])

    def _task_conflict(self) -> Picture | None:
        joint = self.study.recipe.resampling.of
        rows = {row.name: self.tables.scores(row) for row in self.study.scored_rows()}
        if not self.study.recipe.tasks or not {joint, *self.study.recipe.tasks} <= rows.keys():
            return None
        scores = {
            task: TaskScores(expert, rows["base"][task], rows[expert][task], rows[joint][task])
            for expert, tasks in self.study.recipe.tasks.items()
            for task in self.tables.types
            if full_name(task) in tasks
        }
        return task_conflict(scores, self.styles)

    def _gradients(self) -> Picture | None:
        joint = self.study.recipe.resampling.of
        recipe = self.study.models.recipes.get(joint)
        if recipe is None or recipe.conflict_every is None:
            return None
        stage = self.study.models.model(joint).stage
        assert stage is not None
        cosines: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        with (self.study.graph.folder(stage) / GradientConflict.FILE).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                cosines[row["task_a"], row["task_b"]][int(row["step"])] = float(row["cosine"])
        steps = list(next(iter(cosines.values())))
        return gradient_cosines(steps, {pair: list(of.values()) for pair, of in cosines.items()})

    def _norms(self) -> Picture | None:
        shortened = self.study.shortened
        if not shortened:
            return None
        recipes = self.study.models.recipes
        whole = dict.fromkeys(expert for expert, *_ in shortened)
        named = [(expert, name) for expert, _, name, _ in shortened] + [(expert, expert) for expert in whole]
        models = [self.study.models.model(name) for _, name in named]
        gram = self._gram("norms", models)
        return norm_against_examples(
            [
                SizedExpert(expert, recipes[name].max_steps * recipes[name].batch_size, float(gram[i, i]) ** 0.5)
                for i, (expert, name) in enumerate(named)
            ],
            self.styles,
        )

    def _directions(self) -> Picture | None:
        """The joint model and its resampled kin against the experts that their data is of."""
        joint = self.study.recipe.resampling.of
        rows = self.study.family("resampling")
        if not rows:
            return None
        known = self.study.models
        experts = list(known.recipes[joint].mix)
        models = [known.model(name) for name in [*experts, joint, *(row.name for row in rows)]]
        gram = self._gram("directions", models)
        norms = gram.diagonal().sqrt()
        points = []
        for i, name in enumerate([joint, *(row.name for row in rows)], start=len(experts)):
            points += [
                JointDirection(expert, share, float(gram[i, e] / (norms[i] * norms[e])))
                for e, (expert, share) in enumerate(known.data.shares(name).items())
            ]
        return direction_against_share(points, self.styles)

    def _gram(self, name: str, models: Sequence[Model]) -> Tensor:
        stage = Geometry(name, self.study.models.base, tuple(models))
        return read_gram(self.study.graph.run(stage))

    def _landscape(self) -> Picture:
        first, second, points = self.surroundings.landscape()
        shape = len(first), len(second)
        loss = np.reshape([point.objective for point in points], shape)
        score = np.reshape([np.mean(list(point.scores.values())) for point in points], shape)
        a, b = self.surroundings.plane
        path = np.stack([self.surroundings.path.coefficients[a], self.surroundings.path.coefficients[b]], axis=1)
        return loss_landscape(
            Plane((a, b), first, second, loss, score), path, self._others(a, b, first[-1], second[-1])
        )

    def _others(self, a: str, b: str, furthest_a: float, furthest_b: float) -> dict[str, tuple[float, float]]:
        """The base, the two experts and the merges of the main table that lie on the plane's window."""
        found = {"base": (0.0, 0.0), a: (1.0, 0.0), b: (0.0, 1.0)}
        for row in self.study.main_rows:
            c = self.tables.coefficients(row)
            if c is not None and a in c and b in c and c[a] <= furthest_a and c[b] <= furthest_b:
                found[row.name] = (c[a], c[b])
        return found


def _columns(points: Sequence[Point]) -> dict[str, list[float]]:
    """Task, without its caps, to its scores, point by point."""
    return {full_name(task): [point.scores[task] for point in points] for task in points[0].scores}
