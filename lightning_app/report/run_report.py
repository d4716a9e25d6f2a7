"""The table at the end: every model by every task, what was found, and what it took."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from datamodules import SplitTask
from datamodules.decontamination import Overlap
from lightning_app.report.markdown import markdown_table
from lightning_app.report.rows_table import HEADER, rows_cells, rows_notes
from lightning_app.stages.learn import POSITION
from lightning_app.stages.model import Model
from lightning_app.stages.score import read_scores
from lightning_app.stages.stage_graph import Stage, StageGraph
from modules.encoding.prompts import SidePrompts
from modules.json_files import read_json
from modules.positioning.ending import Ending

OVERLAP_LEGEND = (
    "Texts of the tasks that are also training rows (`exact`: letter by letter; `normalised`: also up to case, white "
    "space and punctuation):"
)


def report(
    title: str,
    models: Sequence[Model],
    scores: Mapping[str, Stage],
    graph: StageGraph,
    notes: Sequence[str],
    overlaps: Mapping[str, Overlap],
    data: Sequence[SplitTask],
    prompts: SidePrompts,
) -> str:
    """The report in Markdown, which reads well on a screen too.

    Args:
        title: its heading.
        models: the rows; their stages have run.
        scores: name of each model to the stage that scored it; empty if there are no tasks.
        graph: has the results.
        notes: lines under the tables.
        overlaps: name of each task to what it shares with the training rows.
        data: the data sets.
        prompts: of the base.
    """
    parts = [f"# {title}"]
    if scores:
        table = score_table({model.name: read_scores(graph.folder(scores[model.name])) for model in models})
        parts += ["Main scores x 100, the best of each column in bold.", table]
    stages = {m.name: m.stage for m in models if m.stage and m.stage.kind == "position"}
    learned = {name: _read_position(stage, graph) for name, stage in stages.items()}
    if learned:
        explanation = (
            "Positions learned: `a` the free numbers, `c` the factor of each task vector (means over the groups of a "
            "position that has several), `objective` the mean loss on the probe-validation rows relative to the base's."
        )
        endings = [f"- {name} {read_ending(stages[name], graph)}" for name in learned]
        parts += [explanation, position_table(learned), "\n".join(endings)]
    parts += ["Rows of each data set:", rows_table(data, prompts)]
    if overlaps:
        parts += [OVERLAP_LEGEND, overlap_table(overlaps)]
    parts += ["Seconds, all attempts included:", time_table(models, scores, graph)]
    parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def score_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Models by tasks; the best of each column is bold.

    Args:
        scores: model to task to score.
    """
    rows = {name: {**of, "average": fmean(of.values())} for name, of in scores.items()}
    columns = list(next(iter(rows.values())))
    best = {column: max(row[column] for row in rows.values()) for column in columns}
    cells = [
        [name, *(f"**{row[c]:.2f}**" if row[c] == best[c] else f"{row[c]:.2f}" for c in columns)]
        for name, row in rows.items()
    ]
    return markdown_table(["model", *columns], cells)


def rows_table(data: Sequence[SplitTask], prompts: SidePrompts) -> str:
    """Return the data sets by what becomes of their rows, and what is to be said about them.

    Args:
        data: the data sets.
        prompts: of the base.
    """
    notes = "\n".join(f"- {note}" for note in rows_notes(data, prompts))
    return "\n\n".join(filter(None, [markdown_table(HEADER, list(map(rows_cells, data))), notes]))


def position_table(positions: Mapping[str, Mapping[str, float]]) -> str:
    """Models by the numbers of their positions; those of an expert that a model is not made of are left empty."""
    kinds = ["a", "c", "scale", "objective"]
    names = dict.fromkeys(name for numbers in positions.values() for name in numbers)
    columns = sorted(names, key=lambda name: kinds.index(name.split("/")[0]))
    rows = [[name, *(f"{of[c]:.3f}" if c in of else "" for c in columns)] for name, of in positions.items()]
    return markdown_table(["model", *columns], rows)


def overlap_table(overlaps: Mapping[str, Overlap]) -> str:
    """Tasks by what their texts share with the training rows."""
    rows = [[name, *(f"{count:,}" for count in (o.texts, o.exact, o.normalised))] for name, o in overlaps.items()]
    return markdown_table(["task", "texts", "exact", "normalised"], rows)


def time_table(models: Sequence[Model], scores: Mapping[str, Stage], graph: StageGraph) -> str:
    """Seconds that each model's own stage took, and its scoring; what it is made of has rows of its own."""
    rows = {
        model.name: {
            "training": sum(graph.seconds(stage) for stage in model.inputs),
            "scoring": graph.seconds(scores[model.name]) if scores else 0.0,
        }
        for model in models
    }
    rows["together"] = {column: sum(row[column] for row in rows.values()) for column in ("training", "scoring")}
    cells = [[name, *(f"{value:.1f}" for value in row.values())] for name, row in rows.items()]
    return markdown_table(["model", "training", "scoring"], cells)


def _read_position(stage: Stage, graph: StageGraph) -> dict[str, float]:
    found = read_json(graph.folder(stage) / POSITION)
    return {**found["mean_position"], "objective": found["objective"]}


def read_ending(stage: Stage, graph: StageGraph) -> Ending:
    """Return how the search of a learned position ended."""
    return Ending(**read_json(graph.folder(stage) / POSITION)["ending"])
