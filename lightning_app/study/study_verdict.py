"""The verdict of a study: the choice is among all models of its main table, and the base."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_app.report.differences import gains
from lightning_app.report.significance import read_row
from lightning_app.report.verdict import Contender, Verdict, choose
from lightning_app.stages.fixed_merge import FixedMerge
from lightning_app.stages.learn import Learn
from lightning_app.study.study_rows import Row, Study

if TYPE_CHECKING:
    from mteb import AbsTask


def study_verdict(study: Study, tasks: "Sequence[AbsTask]") -> Verdict:
    """Return the model to take, and its differences from the others on the recipe's tasks.

    Args:
        study: whose stages have run.
        tasks: the recipe's, with their data.
    """
    rows = {row.name: row for row in [study.base, *study.main_rows]}
    contenders = [_contender(study, row) for row in rows.values()]
    chosen = choose(contenders, otherwise=contenders[0])
    graph = study.graph
    scored = {name: read_row(graph.folder(study.score(row)), graph.score_cache) for name, row in rows.items()}
    joint = study.headline.get("joint")
    joints = [name for name, row in rows.items() if joint is not None and row.model == joint.model]
    return Verdict(
        chosen, contenders, gains(chosen.name, scored, tasks), [study.base.name, *joints, "average"], len(tasks)
    )


def _contender(study: Study, row: Row) -> Contender:
    return Contender(
        row.name,
        row.model.folder(study.graph),
        study.objective(row),
        single=not isinstance(row.model.stage, Learn | FixedMerge),
        trust_remote_code=row.model.loading.trust_remote_code,
    )
