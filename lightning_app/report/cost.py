"""The cost of a route: its own stages, and those that it needs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from callbacks import CostMeter
from lightning_app.report.table import Table
from lightning_app.stages.stage_graph import Stage, StageGraph, with_inputs
from modules.json_files import read_json

COUNTS = ("steps", "examples", "TFLOP", "seconds")

SEARCH = "the resampling search"

LEGEND = (
    "all: with all models that it is made of, each counted once. FLOPs are counted operation by operation, by "
    "torch.utils.flop_counter, in training steps and validation's forward passes: in three of a kind, which differ in "
    "the lengths of their texts, and from these all others follow. Seconds are measured, all attempts included."
)


@dataclass(frozen=True)
class Cost:
    """A sum over stages.

    Args:
        steps: optimiser steps.
        examples: rows seen, one that is seen twice counted twice.
        flops: floating point operations of training and of validation, counted.
        seconds: measured, all interrupted attempts included.
    """

    steps: int = 0
    examples: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.steps + other.steps,
            self.examples + other.examples,
            self.flops + other.flops,
            self.seconds + other.seconds,
        )

    def cells(self) -> list[str]:
        """Return the numbers as a table has them, under `COUNTS`."""
        return [f"{self.steps:,}", f"{self.examples:,}", f"{self.flops / 1e12:.1f}", f"{self.seconds:.1f}"]


def cost_of(stages: Iterable[Stage], graph: StageGraph, *, inputs: bool) -> Cost:
    """Return what these stages took, each counted once; merging at given coefficients counts by its seconds only.

    Args:
        stages: that have run.
        graph: has their results.
        inputs: whether the stages that they need count, too.
    """
    counted = with_inputs(list(stages)) if inputs else list({stage.key: stage for stage in stages}.values())
    total = Cost()
    for stage in counted:
        found = read_json(graph.folder(stage) / CostMeter.FILE, {})
        flops = found.get("flops", 0.0) + found.get("validation_flops", 0.0)
        total += Cost(found.get("steps", 0), found.get("examples", 0), flops, graph.seconds(stage))
    return total


def cost_table(
    routes: Mapping[str, Sequence[Stage]],
    scores: Mapping[str, Stage],
    graph: StageGraph,
    searched: Sequence[Stage] = (),
) -> Table:
    """Return the table of what each route costs.

    Args:
        routes: model to the stages that make it; a model that was given has none.
        scores: model to the stage that scored it; empty: none was scored.
        graph: has the results.
        searched: the stages of the resampling search, of which parts are shown.
    """
    search = cost_of(searched, graph, inputs=True)
    made = {**routes, **({SEARCH: searched} if searched else {})}
    rows = []
    for name, stages in made.items():
        own, whole = (cost_of(stages, graph, inputs=inputs) for inputs in (False, True))
        parts = [f"{100 * cost.flops / search.flops:.1f}" for cost in (own, whole)] if searched else []
        scoring = [f"{graph.seconds(scores[name]):.1f}" if name in scores else ""] if scores else []
        rows.append([name, *own.cells(), *whole.cells(), *scoring, *parts])
    header = ["route", *COUNTS, *(f"{name}, all" for name in COUNTS), *(["scoring, seconds"] if scores else [])]
    header += ["% of search", "% of search, all"] if searched else []
    note = f"{LEGEND} The last columns are parts of the FLOPs of {SEARCH}." if searched else LEGEND
    return Table("What each route costs", header, rows, notes=[note, _together(routes, scores, graph)])


def _together(routes: Mapping[str, Sequence[Stage]], scores: Mapping[str, Stage], graph: StageGraph) -> str:
    """Return in words what all routes took, what they share counted once."""
    made = cost_of([stage for stages in routes.values() for stage in stages], graph, inputs=True)
    scored = cost_of(scores.values(), graph, inputs=False)
    scoring = f", {scored.seconds:.1f} s of scoring" if scores else ""
    return f"All routes together, each stage counted once: {made.seconds:.1f} s of training and merging{scoring}."
