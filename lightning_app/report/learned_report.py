"""The report of a learned merge on held-out rows: rows, table of the models, coefficients, and one sentence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from callbacks.mteb.hub_results import hub_results
from datamodules import SplitTask
from lightning_app.recipe.named_merges import MAIN
from lightning_app.report.gain import Gain
from lightning_app.report.position_path import read_ending
from lightning_app.report.scores_table import scores_table
from lightning_app.stages.held_out import Measured, read_held_out
from lightning_app.stages.learn import POSITION
from lightning_app.stages.learned_merge import LearnedMerge
from lightning_app.stages.learning_rows import LearningRows
from lightning_app.stages.score import read_results, read_scores
from lightning_app.stages.stage_graph import StageGraph
from modules.bootstrap import Interval, interval, mean_differences
from modules.json_files import read_json
from modules.losses.task_batch import Kind
from modules.markdown import markdown_table
from modules.merging.describe import describe
from modules.model_card.finding import Evaluation, Finding

SCORES: dict[Kind, tuple[str, str]] = {
    "pairs": ("mrr", "MRR"),
    "graded": ("spearman", "Spearman"),
    "labelled": ("recall@1", "accuracy"),
}
"""Kind of rows to the metric that is shown, and to its name; the accuracy is that of the nearest neighbour."""

KINDS: dict[Kind, str] = {"pairs": "pairs", "graded": "graded pairs", "labelled": "labelled texts"}

FEWEST_BATCHES = 5
"""Batches of every data set that an interval is taken of, at least."""

THIS_MODEL = "`{}` is this model."

MTEB_LEGEND = "MTEB main scores x 100, the best of each column in bold:"

ROWS_HEADER = ("data set", "kind", "read", "to learn on", "to choose on", "held out", "not used", "why")


@dataclass(frozen=True)
class LearnedReport:
    """The numbers of a learned merge, and its gain.

    Args:
        merge: the stages, which have run.
        found: model to data set to what was measured on held-out rows; the base first, the learned merge last, before
            it the average.
        coefficients: group to expert to the factor of its task vector.
        ending: of the search.
        scores: model to MTEB task to score; empty if there are no tasks.
        evaluation: mteb's results of the merge.
    """

    merge: LearnedMerge
    found: Mapping[str, Mapping[str, Measured]]
    coefficients: Mapping[str, Mapping[str, float]]
    ending: str
    scores: Mapping[str, Mapping[str, float]]
    evaluation: Evaluation

    def __str__(self) -> str:
        """Return the report as the screen has it."""
        parts = [
            *self._held_out(),
            *self._mteb(),
            coefficients_table(self.coefficients),
            f"The search {self.ending}.",
            str(self.gain()),
        ]
        return "\n\n".join(parts)

    def finding(self, sources: Sequence[str]) -> Finding:
        """Return the report for ``merge.json`` and for the model card.

        Args:
            sources: of the rows.
        """
        sections = {
            "Data": [
                f"The position was learned on rows of these data sets; the search {self.ending}.",
                rows_table(self.rows),
            ],
            "MTEB": self._mteb(),
            "Held-out rows": [THIS_MODEL.format(MAIN), *self._held_out(), str(self.gain())],
        }
        texts = {heading: "\n\n".join(parts) for heading, parts in sections.items() if parts}
        return Finding(self._record(), texts, sources, self.evaluation)

    def _held_out(self) -> list[str]:
        return [self.legend(), self.table()]

    def _mteb(self) -> list[str]:
        return [MTEB_LEGEND, scores_table(self.scores).markdown()] if self.scores else []

    def _record(self) -> dict[str, Any]:
        held_out = {
            model: {"loss": self.losses[model], "data": {name: dict(one.metrics) for name, one in of.items()}}
            for model, of in self.found.items()
        }
        return {
            "rows": {task.name: _rows_record(self.rows, task) for task in self.rows.tasks},
            "seed": self.rows.seed,
            "search": describe(self.merge.search),
            "signed": self.merge.signed,
            "ending": self.ending,
            "held_out": held_out,
            "gain": str(self.gain()),
            **({"mteb": {model: dict(of) for model, of in self.scores.items()}} if self.scores else {}),
        }

    @property
    def rows(self) -> LearningRows:
        """The data sets."""
        return self.merge.rows

    @cached_property
    def losses(self) -> dict[str, float]:
        """Model to the mean over the data sets of its loss relative to the base's."""
        return {model: self._mean(model) for model in self.found}

    def _mean(self, model: str) -> float:
        relative = [of.metrics["loss"] / self._base_loss(name) for name, of in self.found[model].items()]
        return float(np.mean(relative))

    def _base_loss(self, name: str) -> float:
        base = next(iter(self.found.values()))
        return base[name].metrics["loss"] or math.nan

    def table(self) -> str:
        """Return the models by mean relative loss and by the score of each data set, in Markdown."""
        shown = [(task.name, *SCORES[task.expert.kind]) for task in self.rows.tasks]
        header = ["model", "loss", *(f"{name} {title}" for name, _, title in shown)]
        cells = [
            [model, f"{self.losses[model]:.4f}", *(_score(of[name], metric) for name, metric, _ in shown)]
            for model, of in self.found.items()
        ]
        return markdown_table(header, cells)

    def legend(self) -> str:
        """Return what the columns of the table are."""
        ranked = any(task.expert.kind != "graded" for task in self.rows.tasks)
        among = f" MRR and accuracy are among the rows of a batch, {self.rows.batch_size}." if ranked else ""
        return (
            "Rows that nothing was learned or chosen on; `loss` is the mean over the data sets, relative to the "
            f"base's.{among}"
        )

    def gain(self) -> Gain:
        """Return what the merge gains over the best of base and experts."""
        *singles, average, merge = self.found
        best = min(singles, key=self.losses.__getitem__)
        return Gain(best, self.losses[best], self.losses[merge], self._bounds(merge, best), self.losses[average])

    def _bounds(self, merge: str, other: str) -> Interval | None:
        """The interval of the gain over another model, over the choice of batches."""
        resampled = []
        for seed, (name, of) in enumerate(self.found[merge].items()):
            if len(of.batch_losses) < FEWEST_BATCHES:
                return None
            theirs = self.found[other][name].batch_losses
            resampled.append(mean_differences(of.batch_losses, theirs, seed=seed) / self._base_loss(name))
        return interval(np.mean(resampled, axis=0))


def learned_report(merge: LearnedMerge, graph: StageGraph) -> LearnedReport:
    """Return the report of a merge whose stages have run.

    Args:
        merge: the stages.
        graph: has the results.
    """
    position = read_json(graph.folder(merge.learn) / POSITION)
    evaluation = Evaluation()
    if merge.scores:
        scored, tasks = merge.scores[-1], merge.scores[-1].scorer.mteb.load()
        evaluation = hub_results(read_results(graph.folder(scored), graph.score_cache, tasks))
    return LearnedReport(
        merge,
        {stage.name: read_held_out(graph.folder(stage)) for stage in merge.held_out},
        position["coefficients"],
        str(read_ending(graph.folder(merge.learn))),
        {stage.name: read_scores(graph.folder(stage)) for stage in merge.scores},
        evaluation,
    )


def _rows_record(rows: LearningRows, task: SplitTask) -> dict[str, Any]:
    parts = {"probe": task.probe, "validation": task.validation, "held_out": rows.shown(task)}
    counts = {part: {"rows": len(data), "sha256": data.fingerprint()} for part, data in parts.items()}
    return {"kind": task.expert.kind, "read": task.read, **counts, "left_out": task.left_out}


def rows_table(rows: LearningRows) -> str:
    """Return the data sets by kind and by what becomes of their rows, in Markdown."""
    return markdown_table(ROWS_HEADER, [_rows_cells(rows, task) for task in rows.tasks])


def _rows_cells(rows: LearningRows, task: SplitTask) -> list[str]:
    shown = len(rows.shown(task))
    reasons = task.left_out | ({"held out beyond what is shown": more} if (more := len(task.expert) - shown) else {})
    why = ", ".join(f"{reason}: {count:,}" for reason, count in reasons.items())
    counts = (task.read, len(task.probe), len(task.validation), shown, sum(reasons.values()))
    return [task.name, KINDS[task.expert.kind], *(f"{count:,}" for count in counts), why]


def coefficients_table(coefficients: Mapping[str, Mapping[str, float]]) -> str:
    """Return the factor of each expert's task vector, in Markdown; of several groups, the mean and the range.

    Args:
        coefficients: group to expert to factor.
    """
    header = ["expert", "coefficient"] + ["lowest", "highest"] * (len(coefficients) > 1)
    return markdown_table(header, [_coefficients_of(name, coefficients) for name in next(iter(coefficients.values()))])


def _coefficients_of(name: str, coefficients: Mapping[str, Mapping[str, float]]) -> list[str]:
    values: Sequence[float] = [of[name] for of in coefficients.values()]
    numbers = [float(np.mean(values)), min(values), max(values)] if len(values) > 1 else values
    return [name, *(f"{number:.4f}" for number in numbers)]


def _score(measured: Measured, metric: str) -> str:
    return f"{100 * measured.metrics[metric]:.2f}" if metric in measured.metrics else ""
