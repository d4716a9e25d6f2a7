"""The graph of stages, keyed by content: nothing is computed twice, and nothing stale is served.

The result of a stage is a folder under ``<run_dir>/stages`` whose name ends in the stage's key: a hash of all that
determines it, the keys of its inputs included. A stage writes into a folder aside, which is renamed once it is whole,
so that a folder without ``.part`` at its end is done, as long as none of its files is damaged.
"""

import gc
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_app.stages.screen import Screen
from lightning_app.stages.stage import Stage
from modules.checkpoints.whole import damaged_files
from modules.distributed import barrier, from_main, is_main_process
from modules.json_files import read_kept_json, write_json

DONE = "stage.json"
"""Beside the result: kind, inputs and content of the stage, for people."""

SECONDS = "seconds.json"

PART = ".part"
"""What the name of a folder ends in whose stage is not done."""


class StageGraph:
    """Runs stages and keeps their results.

    Args:
        run_dir: results go to ``<run_dir>/stages``, scores of single tasks, which stages share, to ``<run_dir>/mteb``.
        fresh: forget what is there.
        screen: says which stage is running.
    """

    def __init__(self, run_dir: str | Path, fresh: bool = False, screen: Screen | None = None) -> None:
        self.root = Path(run_dir) / "stages"
        self.score_cache = Path(run_dir) / "mteb"
        self.screen = screen or Screen()
        if fresh and is_main_process():
            shutil.rmtree(self.root, ignore_errors=True)
            shutil.rmtree(self.score_cache, ignore_errors=True)

    def folder(self, stage: Stage) -> Path:
        """Return where the result of a stage lies, or will lie; a stage of another name may have made it already."""
        named = self.root / f"{stage.kind}-{safe_name(stage.name)}-{stage.key}"
        return named if named.exists() else next(self.root.glob(f"{stage.kind}-*-{stage.key}"), named)

    def is_done(self, stage: Stage) -> bool:
        """Return whether the result is there, and whole; every process has to ask, and follows the main one."""
        folder = self.folder(stage)
        return from_main((folder / DONE).is_file() and not any(damaged_files(folder)))

    def seconds(self, stage: Stage) -> float:
        """Return how long a stage took, all interrupted attempts included."""
        folder = self.folder(stage)
        return _seconds(folder if folder.exists() else _aside(folder))

    def run(self, stage: Stage) -> Path:
        """Make a stage's inputs, then its result, unless they are there; return its folder."""
        self.run_all([stage])
        return self.folder(stage)

    def run_all(self, stages: Sequence[Stage]) -> None:
        """Make the results of stages, and of all that they need, unless they are there.

        Args:
            stages: in the order in which they are to be made; inputs go before.
        """
        wanted = self.missing(stages)
        self.screen.plan(wanted)
        for stage in wanted:
            self._make(stage)

    def missing(self, stages: Sequence[Stage]) -> list[Stage]:
        """Return the stages that have to run, each once, inputs first; nothing is made again only to be made of."""
        return with_inputs(stages, skip=self.is_done)

    def _make(self, stage: Stage) -> None:
        folder = self.folder(stage)
        aside = _aside(folder)
        if is_main_process():
            if folder.exists():
                damaged = next(damaged_files(folder), folder / DONE)
                rank_zero_info(f"{damaged} is damaged: {stage.kind} {stage.name} is made again")
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
            aside.mkdir(parents=True, exist_ok=True)
        barrier()
        self.screen.begin(stage)
        started = time.perf_counter()
        try:
            stage.run(aside, self)
        finally:
            gc.collect()  # a Trainer and its module refer to each other: their weights would stay for a while
            spent = time.perf_counter() - started
            if is_main_process():
                write_json(aside / SECONDS, {"seconds": round(_seconds(aside) + spent, 2)})
        barrier()  # all processes have written what they write
        if is_main_process():
            inputs = {needed.name: needed.key for needed in stage.inputs}
            write_json(aside / DONE, {"kind": stage.kind, "inputs": inputs, "content": stage.content})
            aside.rename(folder)
        barrier()  # all processes see it done
        self.screen.end(stage, spent)


def with_inputs(stages: Sequence[Stage], skip: Callable[[Stage], bool] = lambda stage: False) -> list[Stage]:
    """Return all stages that these need, each once, inputs first.

    Args:
        stages: that are wanted.
        skip: whether to leave out a stage, and what only it needs.
    """
    found: dict[str, Stage] = {}
    seen: set[str] = set()

    def visit(stage: Stage) -> None:
        if stage.key not in seen:
            seen.add(stage.key)
            if not skip(stage):
                for needed in stage.inputs:
                    visit(needed)
                found[stage.key] = stage

    for stage in stages:
        visit(stage)
    return list(found.values())


def safe_name(name: str) -> str:
    """Return a name that a folder can have."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)


def _aside(folder: Path) -> Path:
    return folder.with_name(folder.name + PART)


def _seconds(folder: Path) -> float:
    kept = read_kept_json(folder / SECONDS, {}, "its time is taken as 0", rank_zero_info)
    return float(kept.get("seconds", 0.0))
