"""The cost of a route: its own stages, and those that it needs."""

from collections.abc import Iterable
from dataclasses import dataclass

from callbacks import CostMeter
from lightning_app.stages.stage_graph import Stage, StageGraph, with_inputs
from modules.json_files import read_json


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
