"""The tables of a study."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from callbacks.mteb.task_cap import full_name
from lightning_app.report.cost import cost_of, cost_table
from lightning_app.report.differences import constant_tasks, differences_table, shown
from lightning_app.report.model_kinds import KINDS
from lightning_app.report.position_path import positions_table
from lightning_app.report.rows_table import data_table, prompts_of
from lightning_app.report.scores_table import best_cells
from lightning_app.report.significance import Significance, read_row, significance
from lightning_app.report.table import Table
from lightning_app.stages.learn import POSITION, Learn
from lightning_app.stages.score import read_scores
from lightning_app.study.study_rows import Row, Study
from modules.json_files import read_json

if TYPE_CHECKING:
    from mteb import AbsTask

ALL = "all"
"""Name of the average over all tasks."""


class StudyTables:
    """Reads the results of a study whose stages have run.

    Args:
        study: the study.
        tasks: the MTEB tasks that its rows were scored on.
    """

    def __init__(self, study: Study, tasks: "Sequence[AbsTask]") -> None:
        self.study, self.loaded = study, tasks
        self.types = {task.metadata.name: str(task.metadata.type) for task in tasks}
        self.owned = self._loaded_names(study.recipe.tasks)
        owned = {name for names in self.owned.values() for name in names}
        self.seen = [name for name in self.types if name in owned]
        self.unseen = [name for name in self.types if name not in owned]

    def scores(self, row: Row) -> dict[str, float]:
        """Task to main score x 100."""
        return read_scores(self.study.graph.folder(self.study.score(row)))

    def average(self, row: Row) -> float:
        """The mean over all tasks."""
        return fmean(self.scores(row).values())

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks in the order of the columns, seen ones first."""
        return [*self.seen, *self.unseen]

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Name of each average to its tasks: all, of each type, of each expert, seen, unseen, and the recipe's own.

        Averages of a single task, and of the same tasks as one before, are left out.
        """
        by_type = {kind: [name for name, of in self.types.items() if of == kind] for kind in self.types.values()}
        groups = {ALL: list(self.types)}
        parts = by_type | self.owned | {"seen": self.seen, "unseen": self.unseen}
        for name, tasks in (parts | self._loaded_names(self.study.recipe.averages)).items():
            if len(tasks) > 1 and tasks not in groups.values():
                groups[name] = tasks
        return groups

    def main(self) -> Table:
        """Models by tasks and averages; the best of each column is bold."""
        rows = self.study.main_rows
        values = [self._numbers(self.scores(row)) for row in rows]
        best = best_cells(values)
        other = self.compared_with
        differences = [self.difference(other, row) for row in rows]
        cells = []
        for row, line, difference in zip(rows, values, differences, strict=True):
            numbers = [*(f"{value:.2f}" for value in line), shown(difference.average)]
            cells.append([row.name, *numbers, f"{self.study.objective(row):.4f}", *self._own_cost(row)])
        unseen = [f"{name} (unseen)" if self.seen else name for name in self.unseen]
        header = ["model", *self._averages(), *self.seen, *unseen]
        header += [f"minus {other.name}", "probe", "seconds", "with inputs"]
        notes = [
            "Main scores x 100, the best of each column in bold.",
            f"minus {other.name}: difference of the means over all tasks, with its 95 % interval by the paired "
            f"bootstrap over the tasks' examples.{constant_tasks(differences[0].constant)}",
            "probe: mean loss on the probe-validation rows relative to the base's, on which every choice is made.",
            "seconds: measured, of the model's own stage; with inputs: and of all that it is made of.",
        ]
        return Table("All models", header, cells, best, notes)

    @property
    def compared_with(self) -> Row:
        """The row that the others are compared with: the best joint model, or the base where there is none."""
        return self.study.headline.get("joint", self.study.base)

    def difference(self, a: Row, b: Row, *, full: bool = False) -> Significance:
        """Return how much better the second row is than the first, on the recipe's tasks, or on whole ones."""
        study, graph = self.study, self.study.graph
        first, second = (read_row(graph.folder(study.score(row, full=full)), graph.score_cache) for row in (a, b))
        return significance(self._whole if full else self.loaded, first, second, self.parts(full=full))

    def parts(self, *, full: bool = False) -> dict[str, list[str]]:
        """Return the averages over parts of the tasks, see `groups`; ``full``: by the names of the whole tasks."""
        parts = {name: tasks for name, tasks in self.groups.items() if name != ALL}
        return {name: list(map(full_name, tasks)) for name, tasks in parts.items()} if full else parts

    @cached_property
    def _whole(self) -> "list[AbsTask]":
        """The tasks without caps."""
        return self.study.full.mteb.load()

    def differences(self) -> Table | None:
        """The best learned merge against the base and the best of the other kinds, on whole tasks."""
        headline = self.study.headline
        if "learned" not in headline:
            return None
        learned = headline["learned"]
        others = [*(row for kind, row in headline.items() if kind != "learned"), self.study.base]
        found = {other.name: self.difference(other, learned, full=True) for other in others}
        caption = "How sure the differences are, on whole tasks"
        return differences_table(caption, learned.name, found, list(map(full_name, self.tasks)))

    def rows(self) -> Table:
        """Return the table of what becomes of the rows of each data set."""
        data = list(self.study.models.data.tasks.values())
        return data_table(data, prompts_of(self.study.models.settings.base), "Rows of each data set:")

    def final(self) -> Table:
        """The base and the best of each kind on whole tasks."""
        rows = self.study.final_rows()
        values = [self._numbers(self.full_scores(row)) for row in rows]
        best = best_cells(values)
        cells = [[row.name, *(f"{value:.2f}" for value in line)] for row, line in zip(rows, values, strict=True)]
        return Table(
            "The chosen models on whole tasks",
            ["model", *self._averages(), *map(full_name, self.tasks)],
            cells,
            best,
        )

    def full_scores(self, row: Row) -> dict[str, float]:
        """Name of each task, which may be capped, to the main score x 100 on the whole of it."""
        found = read_scores(self.study.graph.folder(self.study.score(row, full=True)))
        return {name: found[full_name(name)] for name in self.types}

    def choices(self) -> Table:
        """Return the table of what probe-validation rows choose by loss and by score, and test tasks would have."""
        rows, otherwise = [], 0
        for kind, by_loss in self.study.headline.items():
            candidates = self.study.candidates(kind)
            by_score, oracle = max(candidates, key=self.study.probe_score), max(candidates, key=self.average)
            otherwise += by_score.name != by_loss.name
            picked = [cell for row in (by_loss, by_score, oracle) for cell in (row.name, f"{self.average(row):.2f}")]
            gained = self.average(by_score) - self.average(by_loss)
            rows.append(
                [KINDS[kind], *picked, f"{gained:+.2f}", f"{self.average(by_loss) - self.average(oracle):+.2f}"]
            )
        header = ["best", "chosen by loss", "mean", "by score", "mean", "an oracle's choice", "mean"]
        header += ["by score minus by loss", "by loss minus the oracle's"]
        notes = [
            "by loss: on the probe-validation rows, which is how every choice of this study is made. by score: on the "
            f"same rows, which would have chosen otherwise in {otherwise} of {len(rows)} cases.",
        ]
        return Table("What was chosen, and what other scores would have chosen", header, rows, notes=notes)

    def probe_scores(self) -> Table:
        """Return the table of the scores on the probe-validation rows, by data set."""
        names, rows = self.study.objectives.probe.names, self.study.main_rows
        scores = [self.study.objectives.scores(row.model) for row in rows]
        means = map(self.study.probe_score, rows)
        values = [[mean, *(of[name] for name in names)] for mean, of in zip(means, scores, strict=True)]
        cells = [[row.name, *(f"{v:.2f}" for v in line)] for row, line in zip(rows, values, strict=True)]
        notes = [
            "Scores x 100 on the probe-validation rows. Graded pairs: Spearman's correlation of cosines and scores; "
            "pairs: mean reciprocal rank among all texts of the rows; labelled texts: accuracy of the nearest centroid "
            "of a label's probe rows. No choice is made on them.",
        ]
        return Table("Scores on the probe", ["model", "mean", *names], cells, best_cells(values), notes)

    def seeds(self) -> Table | None:
        """The headline rows over the seeds."""
        if not self.study.recipe.seeds:
            return None
        rows = []
        for kind, others in self.study.seeded.items():
            first = self.study.headline[kind]
            means = [self.average(row) for row in (first, *others)]
            singles = ", ".join(f"{mean:.2f}" for mean in means)
            rows.append([KINDS[kind], first.name, singles, f"{fmean(means):.2f}", f"{stdev(means):.2f}"])
        header = ["best", "model", "mean of all tasks, seed by seed", "mean", "standard deviation"]
        return Table("Other seeds of the chosen models; everything they are made of is trained anew", header, rows)

    def resampling(self) -> Table | None:
        """The joint models of other proportions."""
        rows = self.study.family("resampling")
        if not rows:
            return None
        cells = []
        for row in rows:
            tasks = self.study.models.data.of(row.name)
            counts: dict[str, int] = {}
            for group, names in self.study.models.data.groups(row.name).items():
                counts[group] = sum(len(task.expert) for task in tasks if task.name in names)
            steps = self.study.models.recipes[row.name].max_steps
            cells.append([row.name, *(f"{n:,}" for n in counts.values()), str(steps), *self._scored(row)])
        header = ["model", *(f"rows of {name}" for name in counts), "steps", *self.types, "mean", "probe"]
        return Table("Joint training, resampled", header, cells)

    def orders(self) -> Table | None:
        """The SLERP chain in several orders of the experts."""
        rows = self.study.family("order")
        if not rows:
            return None
        means = [self.average(row) for row in rows]
        note = f"Spread of the mean over orders: {max(means) - min(means):.2f} points."
        header = ["order of the chain", *self.types, "mean", "probe"]
        return Table(
            "The learned SLERP chain by order of the experts",
            header,
            [[r.name, *self._scored(r)] for r in rows],
            notes=[note],
        )

    def coefficients(self, row: Row) -> dict[str, float] | None:
        """The factor of each task vector in a merge against the base; None for any other model."""
        merge = self.study.models.merges.get(row.model.name)
        stage = row.model.stage
        if merge is None or merge.start != "base" or stage is None:
            return None
        found = read_json(self.study.graph.folder(stage) / POSITION)["mean_position"]
        return {key.removeprefix("c/"): value for key, value in found.items() if key.startswith("c/")}

    def learned(self) -> dict[str, Path]:
        """Return the name of each learned merge of the main table to the folder of its stage."""
        return self._folders(self.study.main_rows)

    def positions(self) -> Table:
        """Return the table of where every merge stands, and how every search ended, those of the sweeps, too."""
        return positions_table(self.learned(), self._folders(self.study.rows))

    def _folders(self, rows: Sequence[Row]) -> dict[str, Path]:
        stages = {row.name: row.model.stage for row in rows}
        return {name: self.study.graph.folder(stage) for name, stage in stages.items() if isinstance(stage, Learn)}

    def costs(self) -> Table:
        """Return the table of what each route costs, and what part of the resampling search that is."""
        rows = [row for row in self.study.main_rows if row.model.inputs]
        searched = [stage for row in self.study.family("resampling") for stage in row.model.inputs]
        scores = {row.name: self.study.score(row) for row in rows}
        return cost_table({row.name: row.model.inputs for row in rows}, scores, self.study.graph, searched)

    def _loaded_names(self, groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Return groups of tasks by the names that they have here, in the order of the columns."""
        return {group: [name for name in self.types if full_name(name) in names] for group, names in groups.items()}

    def _averages(self) -> list[str]:
        """The headers of the averages."""
        return [f"mean {name}" for name in self.groups]

    def _numbers(self, scores: Mapping[str, float]) -> list[float]:
        """The averages, and the scores behind them."""
        averages = [fmean(scores[name] for name in names) for names in self.groups.values()]
        return [*averages, *(scores[name] for name in self.tasks)]

    def _scored(self, row: Row) -> list[str]:
        scores = self.scores(row)
        return [
            *(f"{scores[n]:.2f}" for n in self.types),
            f"{self.average(row):.2f}",
            f"{self.study.objective(row):.4f}",
        ]

    def _own_cost(self, row: Row) -> list[str]:
        stages = list(row.model.inputs)
        return [f"{cost_of(stages, self.study.graph, inputs=inputs).seconds:.0f}" for inputs in (False, True)]
