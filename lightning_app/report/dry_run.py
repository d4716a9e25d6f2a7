"""The plan of a run: its stages, those that are done, and how long the others may take."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

from datamodules import TaskData
from lightning_app.stages.model import Model
from lightning_app.stages.stage_graph import Stage, StageGraph
from modules.markdown import markdown_table

TIMED = 64
"""Texts that are embedded to estimate the time of a first run."""


def plan_table(stages: Sequence[Stage], graph: StageGraph, estimate: Callable[[Stage], float]) -> str:
    """Stages by state, seconds taken or estimated; the last row adds up what is left.

    Where stages of a kind are done, the estimates of the others of this kind are corrected by what these took.

    Args:
        stages: in the order in which they run.
        graph: knows what is done.
        estimate: the seconds that a stage may take.
    """
    taken: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    kinds = {stage.kind for stage in stages if not graph.is_done(stage)}
    for stage in stages:
        if stage.kind in kinds and graph.is_done(stage):
            taken[stage.kind][0] += graph.seconds(stage)
            taken[stage.kind][1] += estimate(stage)
    corrections = {kind: seconds / estimated for kind, (seconds, estimated) in taken.items() if estimated}
    rows, left = [], 0.0
    for stage in stages:
        if graph.is_done(stage):
            rows.append([stage.kind, stage.name, "done", f"{graph.seconds(stage):.0f}"])
        else:
            seconds = estimate(stage) * corrections.get(stage.kind, 1.0)
            left += seconds
            rows.append([stage.kind, stage.name, "to run", f"about {seconds:.0f}"])
    count = sum(not graph.is_done(stage) for stage in stages)
    rows.append(["together", f"{count} of {len(stages)} stages", "to run", f"about {left:.0f}"])
    return markdown_table(["stage", "name", "state", "seconds"], rows)


def time_per_text(base: Model, rows: Sequence[TaskData], device: torch.device, max_length: int | None = None) -> float:
    """Return the seconds that the base needs to embed a text, in a batch.

    Args:
        base: the model, given as a folder.
        rows: of which texts are taken, of all columns alike.
        device: where it computes.
        max_length: tokens of a text; None: the model's own limit.
    """
    columns = [column for part in rows for column in part.texts]
    texts = [text for column in columns for text in column[: 1 + TIMED // len(columns)] if text]
    return seconds_per_text(base, texts, device, max_length)


@torch.no_grad()
def seconds_per_text(base: Model, texts: Sequence[str], device: torch.device, max_length: int | None = None) -> float:
    """Return the seconds that the base needs to embed one of these texts, in a batch.

    Args:
        base: the model, given as a folder.
        texts: to be embedded.
        device: where it computes.
        max_length: tokens of a text; None: the model's own limit.
    """
    assert base.path is not None
    encoder = base.loading.load(base.path).to(device)
    encoder.max_length = min(max_length or encoder.max_length, encoder.max_length)
    encoder.encode(texts)
    started = time.perf_counter()
    encoder.encode(texts)
    return (time.perf_counter() - started) / len(set(texts))
