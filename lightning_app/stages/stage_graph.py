"""The graph of stages, keyed by content: nothing is computed twice, and nothing stale is served.

A stage is a folder under ``<run_dir>/stages`` whose name ends in the stage's key: a hash of all that determines its
result, the keys of its inputs included. The folder counts as done once it holds ``stage.json``, written last, and as
long as none of its files is damaged.
"""

import gc
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from modules.checkpoints.whole import damaged_files
from modules.distributed import barrier, from_main, is_main_process
from modules.json_files import read_kept_json, write_json

DONE = "stage.json"

SECONDS = "seconds.json"


@dataclass(frozen=True)
class Stage:
    """One result, and how it is made.

    Args:
        kind: what sort of result: ``model``, ``position``, ``scores``.
        name: what it is called on screen and in its folder's name, if it is the first to be made of its key.
        content: all that determines the result and is no input, as JSON.
        run: writes the result into a folder; every process calls it. A folder left by an interrupted run is passed
            again as it was left.
        inputs: stages whose results `run` reads.
        texts: about how many texts pass through a model, those trained on counted as often as they cost; no part of
            the key.
    """

    kind: str
    name: str
    content: dict[str, Any]
    run: Callable[[Path], None] = field(repr=False)
    inputs: tuple["Stage", ...] = ()
    texts: int = 0

    @cached_property
    def key(self) -> str:
        """Hash of kind, content and inputs; the name is not part of it."""
        parts = [self.kind, self.content, [stage.key for stage in self.inputs]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


class StageGraph:
    """Runs stages and keeps their results.

    Args:
        run_dir: results go to ``<run_dir>/stages``, scores of single tasks, which stages share, to ``<run_dir>/mteb``.
        fresh: forget what is there.
    """

    def __init__(self, run_dir: str | Path, fresh: bool = False) -> None:
        self.root = Path(run_dir) / "stages"
        self.score_cache = Path(run_dir) / "mteb"
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
        kept = read_kept_json(self.folder(stage) / SECONDS, {}, "its time is taken as 0", rank_zero_info)
        return float(kept.get("seconds", 0.0))

    def run(self, stage: Stage) -> Path:
        """Make a stage's inputs, then its result, unless they are there; return its folder."""
        folder = self.folder(stage)
        if self.is_done(stage):
            return folder
        if is_main_process() and (folder / DONE).is_file():
            rank_zero_info(f"{next(damaged_files(folder))} is damaged: {stage.kind} {stage.name} is made again")
            (folder / DONE).unlink()
        for needed in stage.inputs:
            self.run(needed)
        rank_zero_info(f"[{stage.kind}] {stage.name}")
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        try:
            stage.run(folder)
        finally:
            gc.collect()  # a Trainer and its module refer to each other: their weights would stay for a while
            if is_main_process():
                spent = self.seconds(stage) + time.perf_counter() - started
                write_json(folder / SECONDS, {"seconds": round(spent, 2)})
        barrier()  # all processes have written what they write
        if is_main_process():
            inputs = {needed.name: needed.key for needed in stage.inputs}
            write_json(folder / DONE, {"kind": stage.kind, "inputs": inputs, "content": stage.content})
        barrier()  # all processes see it done
        return folder


def with_inputs(stages: Sequence[Stage]) -> list[Stage]:
    """All stages that these need, each once, inputs first."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in found:
            for needed in stage.inputs:
                visit(needed)
            found[stage.key] = stage

    for stage in stages:
        visit(stage)
    return list(found.values())


def safe_name(name: str) -> str:
    """A name that a folder can have."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
