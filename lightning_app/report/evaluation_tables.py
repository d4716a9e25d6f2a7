"""The tables of ``evaluate``: tasks by the scores of a model, or of two models and their difference."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from callbacks.mteb.example_scores import ExampleScores
from callbacks.mteb.task_evaluation import MEAN, MEAN_OF_TYPES, leaderboard_means
from lightning_app.report.comparison import comparison_text
from lightning_app.report.significance import Difference, Row, Significance, significance
from modules.markdown import markdown_table

if TYPE_CHECKING:
    from mteb import AbsTask

INTERVAL_LEGEND = "The intervals are 95 % bootstrap intervals of the difference, over the choice of the test examples."


@dataclass(frozen=True)
class Scores:
    """Scores of one model.

    Args:
        scores: task to main score x 100.
        seconds: task to the time its evaluation took, in this run or in the one that its result is taken from.
        examples: task to the model's example scores.
    """

    scores: dict[str, float]
    seconds: dict[str, float]
    examples: dict[str, ExampleScores]


def result_tables(tasks: "list[AbsTask]", found: Scores) -> str:
    """Return a table of tasks by main score and time, and one of the leaderboard's means."""
    rows = [
        [name, str(task.metadata.type), task.metadata.main_score, f"{found.scores[name]:.2f}", f"{seconds:.1f}"]
        for task, (name, seconds) in zip(tasks, found.seconds.items(), strict=True)
    ]
    counts = _task_counts(tasks)
    means = [[name, counts[name], f"{mean:.2f}"] for name, mean in leaderboard_means(tasks, found.scores).items()]
    return _joined(["task", "type", "metric", "score", "seconds"], rows, ["mean", "of", "score"], means)


def comparison(tasks: "list[AbsTask]", models: list[str], a: Scores, b: Scores) -> str:
    """Return the tables of a comparison, what the columns are, and which model is better."""
    sure = significance(tasks, Row(a.scores, a.examples), Row(b.scores, b.examples))
    legend = f"A: {models[0]}\nB: {models[1]}\n{INTERVAL_LEGEND}"
    if sure.constant:
        legend += f" Constants in them, because they have no scores of examples: {', '.join(sure.constant)}."
    return f"{comparison_tables(tasks, a, b, sure)}\n\n{legend}\n\n{comparison_text('A', 'B', sure)}"


def comparison_tables(tasks: "list[AbsTask]", a: Scores, b: Scores, found: Significance) -> str:
    """Return a table of tasks by the scores of two models and their difference, and one of the leaderboard's means.

    Args:
        tasks: that both models were scored on.
        a: scores of the first model.
        b: scores of the second.
        found: the differences.
    """
    rows = [
        [name, str(task.metadata.type), *_cells(a.scores[name], b.scores[name], found.tasks[name])]
        for name, task in {task.metadata.name: task for task in tasks}.items()
    ]
    counts, means_b = _task_counts(tasks), leaderboard_means(tasks, b.scores)
    means = [
        [name, counts[name], *_cells(float(mean), float(means_b[name]), found.means[name])]
        for name, mean in leaderboard_means(tasks, a.scores).items()
    ]
    columns = ["A", "B", "B - A", "95 % interval"]
    return _joined(["task", "type", *columns], rows, ["mean", "of", *columns], means)


def _joined(header: list[str], rows: list[list[str]], of_means: list[str], means: list[list[str]]) -> str:
    """Return a table of tasks, and under it one of their means; a single task is its own mean."""
    tables = [markdown_table(header, rows)] + [markdown_table(of_means, means)] * (len(rows) > 1)
    return "\n\n".join(tables)


def _task_counts(tasks: "list[AbsTask]") -> dict[str, str]:
    """Return what each of the leaderboard's means is taken over."""
    types = Counter(str(task.metadata.type) for task in tasks)
    counts = {name: _counted(count, "task") for name, count in types.items()}
    return {MEAN: _counted(len(tasks), "task"), MEAN_OF_TYPES: _counted(len(types), "type"), **counts}


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count > 1)}"


def _cells(a: float, b: float, difference: Difference) -> list[str]:
    bounds = difference.interval
    return [f"{a:.2f}", f"{b:.2f}", f"{b - a:+.2f}", f"{bounds:+.2f}" if bounds else ""]
