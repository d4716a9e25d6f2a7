"""The verdict of a study: the choice is among all models of its main table, and the base."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_app.report.differences import gains
from lightning_app.report.significance import read_row
from lightning_app.report.verdict import Verdict, choose, contender
from lightning_app.study.study_rows import Study

if TYPE_CHECKING:
    from mteb import AbsTask


def study_verdict(study: Study, tasks: "Sequence[AbsTask]", groups: Mapping[str, Sequence[str]]) -> Verdict:
    """Return the model to take, and its differences from the others on the recipe's tasks.

    Args:
        study: whose stages have run.
        tasks: the recipe's, with their data.
        groups: name to those of them over which a mean is shown as well.
    """
    rows = {row.name: row for row in [study.base, *study.main_rows]}
    contenders = [contender(name, row.model, study.graph, study.objective(row)) for name, row in rows.items()]
    chosen = choose(contenders, otherwise=contenders[0])
    graph = study.graph
    scored = {name: read_row(graph.folder(study.score(row)), graph.score_cache) for name, row in rows.items()}
    joint = study.headline.get("joint")
    joints = [name for name, row in rows.items() if joint is not None and row.model == joint.model]
    shown = [study.base.name, *joints, "average"]
    return Verdict(chosen, contenders, gains(chosen.name, scored, tasks, groups), shown, len(tasks))
