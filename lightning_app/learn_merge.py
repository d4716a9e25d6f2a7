"""Merging given models at a position that is learned on the user's own rows."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datamodules import named_sources
from datamodules.splits import Sources
from lightning_app.report.dry_run import time_per_text
from lightning_app.report.learned_report import learned_report, rows_table
from lightning_app.report.rows_table import prompts_of, rows_notes
from lightning_app.stages.learn import POSITION
from lightning_app.stages.learned_merge import RESERVED, LearnedMerge
from lightning_app.stages.learning_rows import LearningRows
from lightning_app.stages.run_lock import FILE, locked
from lightning_app.stages.screen import Screen
from lightning_app.stages.stage_graph import DONE, StageGraph
from lightning_app.unique_names import unique_names
from modules import Bfgs, MergeMethod, Search, Slerp, UserError
from modules.checkpoints.common_base import common_base
from modules.json_files import read_json
from modules.on_disk.merge_files import merge_files
from modules.on_disk.new_folder import refuse_taken
from modules.on_disk.plan import Plan

MARK = "of-a-learned-merge"
"""A file by which a folder of what is done is known from other folders, which are left alone."""


@dataclass(frozen=True)
class Learned:
    """A merge that was learned and written.

    Args:
        folder: of the merged model.
        report: the held-out table, the coefficients and the gain, in Markdown.
        record: the content of ``merge.json``.
    """

    folder: Path
    report: str
    record: Mapping[str, Any]


def learn_merge(
    base: str | None,
    experts: Sequence[str] | Mapping[str, str],
    data: Sources,
    out: str | Path,
    *,
    method: MergeMethod | None = None,
    search: Search | None = None,
    signed: bool = False,
    tasks: Sequence[str] = (),
    seed: int = 0,
    hub_name: str | None = None,
    say: Callable[[str], None] = print,
    **options: Any,
) -> Learned:
    """Merge models at the position that is learned on data sets, and write the merged model.

    What is done so far is kept in ``<out>.run`` until the model is written. After an interruption, a call with the same
    arguments goes on from there. The same rows and seed give the same bits.

    Args:
        base: folder or hub name of the model that the experts were trained from; None: the one that they record.
        experts: folders or hub names of models, or folders of LoRA adapters; by name, or a list.
        data: files or other sources of rows, see `DataSource`; by name, or a list.
        out: the new folder.
        method: of merging; None: SLERP.
        search: how the position is found; None: BFGS on all rows that are learned on.
        signed: whether a coefficient may become zero or negative.
        tasks: names of MTEB tasks on which base, experts, average and merge are scored.
        seed: of the splits and of all random numbers.
        hub_name: the name that the model is to have on the hub, for its card.
        say: prints a line.
        options: further arguments of `Plan`: ``granularity``, ``dtype``, ``settings_of``, ``allow_suspicious``.

    Returns:
        The merge, with its report.

    Raises:
        UserError: a mistake of the user's; nothing is written then.
        Interrupted: the user stopped it.

    Example:
        >>> merged = learn_merge("base", ["expert_a", "expert_b"], ["faq.jsonl", "similarity.csv"], "merged")
        >>> print(merged.report)
    """
    out = refuse_taken(out)
    if found := {"a", "scale", "c"} & options.keys():
        raise UserError(f"{found.pop()} is what is learned; leave it out")
    named = (
        experts if isinstance(experts, Mapping) else dict(zip(unique_names(experts, RESERVED), experts, strict=True))
    )
    if base is None:
        base = common_base(named)
        say(f"base: {base}, which all experts record")
    plan = Plan(base, named, method or Slerp(), **options)
    run_dir = out.with_name(f"{out.name}.run")
    merge = LearnedMerge(plan, LearningRows.read(data, seed), search or Bfgs(), signed, run_dir, tuple(tasks))
    merge.check()
    say(rows_table(merge.rows))
    for note in rows_notes(merge.rows.tasks, prompts_of(base)):
        say(f"- {note}")
    with _run_folder(run_dir, say):
        graph = StageGraph(run_dir, screen=Screen(seconds_per_text=partial(_time_per_text, merge)))
        # The position first: what is wrong with the models or the method shows before anything is done.
        graph.run_all([merge.learn, *merge.held_out, *merge.scores])
        report = learned_report(merge, graph)
        finding = report.finding([source.source for source in named_sources(data).values()])
        record = merge_files(_at_position(merge, graph), out, say, replace(finding, hub_name=hub_name))
    say(f"\n{report}")
    return Learned(out, str(report), record)


def _at_position(merge: LearnedMerge, graph: StageGraph) -> Plan:
    """The plan with what was learned."""
    found = read_json(graph.folder(merge.learn) / POSITION)
    mean = found["mean_position"]
    a = [mean[f"a/{name}"] for name in merge.plan.experts]
    return replace(merge.plan, a=a, scale=mean["scale"], c=found["coefficients"])


def _time_per_text(merge: LearnedMerge) -> float:
    device = merge.trainer.of_validation().device
    return time_per_text(merge.inputs.start, [task.probe for task in merge.rows.tasks], device)


@contextmanager
def _run_folder(run_dir: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder of what is done; it is removed at the end, or where a mistake shows before anything is done.

    Raises:
        UserError: another folder is there, or another run holds it.
    """
    mark = run_dir / MARK
    if run_dir.exists() and not mark.is_file() and any(path.name != FILE for path in run_dir.iterdir()):
        raise UserError(
            f"{run_dir} is to keep what is done until the merge is written; rename it, or choose another --out"
        )
    say(f"what is done is kept in {run_dir} until the merge is written: the same command goes on from there")
    with locked(run_dir, "--out"):
        mark.touch()
        try:
            yield
        except UserError:
            if not any(run_dir.glob(f"stages/*/{DONE}")):
                shutil.rmtree(run_dir)
            raise
        shutil.rmtree(run_dir)
