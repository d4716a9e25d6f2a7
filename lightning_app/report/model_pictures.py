"""Pictures of all models of a study: the score against the cost, and the tasks of an expert against all others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_app.report.model_kinds import KINDS
from lightning_app.report.pictures import PALETTE, Picture, legend_below, new_figure
from lightning_app.report.point_numbers import number_points

KIND_STYLES: Mapping[str, tuple[str, str]] = {
    "": ("#000000", "x"),
    "joint": (PALETTE[1], "s"),
    "fixed": (PALETTE[0], "o"),
    "learned": (PALETTE[2], "D"),
}
"""Kind of a model, as a study has it, to colour and marker; ``""``: the base and the experts."""

KIND_NAMES = {"": "base, experts", **KINDS}

KINDS_NOTE = "Crosses are the base and the experts, squares joint models, circles fixed merges, diamonds learned ones."


@dataclass(frozen=True)
class ModelPoint:
    """A model in the plane.

    Args:
        name: of the model.
        kind: a key of `KIND_STYLES`.
        x: where it is from left to right.
        y: its score x 100.
    """

    name: str
    kind: str
    x: float
    y: float


def score_against_cost(points: Sequence[ModelPoint]) -> Picture:
    """Mean score against the FLOPs of training a model and all that it is made of.

    Args:
        points: with the TFLOP as x and the mean score over all tasks as y.
    """
    figure, (axes,) = new_figure(4.6)
    axes.set_xlabel("TFLOP of training, with all that a model is made of")
    axes.set_ylabel("mean score x 100")
    _draw(figure, axes, points)
    front = [p for p in points if not any(o.x <= p.x and o.y >= p.y and (o.x, o.y) != (p.x, p.y) for o in points)]
    named = ", ".join(f"{p.name} ({p.x:.0f} TFLOP, {p.y:.2f})" for p in sorted(front, key=lambda p: p.x))
    return Picture(
        "score_against_cost",
        "Score against cost",
        f"No other model is as good at the same cost as {named}. {KINDS_NOTE}",
        figure,
        ["model", "kind", "TFLOP", "mean score"],
        [[p.name, KIND_NAMES[p.kind], p.x, p.y] for p in points],
    )


def trade_off(expert: str, points: Sequence[ModelPoint]) -> Picture:
    """Mean score on the tasks of an expert against that on all other tasks.

    Args:
        expert: its name.
        points: with the mean score over all other tasks as x and over the expert's as y.
    """
    figure, (axes,) = new_figure(4.6)
    axes.set_xlabel("mean score x 100 on all other tasks")
    axes.set_ylabel(f"mean score x 100 on the tasks of {expert}")
    _draw(figure, axes, points)
    own, others = max(points, key=lambda p: p.y), max(points, key=lambda p: p.x)
    return Picture(
        f"trade_off_{expert}",
        f"The tasks of {expert} against all others",
        f"{own.name} is best on the tasks of {expert} ({own.y:.2f}, {own.x:.2f} on the others), {others.name} on the "
        f"others ({others.x:.2f}, {others.y:.2f} on the tasks of {expert}). Up and to the right is better. "
        f"{KINDS_NOTE}",
        figure,
        ["model", "kind", "other tasks", f"tasks of {expert}"],
        [[p.name, KIND_NAMES[p.kind], p.x, p.y] for p in points],
    )


def _draw(figure: Figure, axes: Axes, points: Sequence[ModelPoint]) -> None:
    """Draw the points with their numbers, and the legend that names them."""
    handles = []
    for number, point in enumerate(points, start=1):
        colour, marker = KIND_STYLES[point.kind]
        axes.plot([point.x], [point.y], color=colour, marker=marker, markersize=7, linestyle="", zorder=4)
        label = f"{number} {point.name}"
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=7, linestyle="", label=label))
    axes.margins(0.08)
    legend_below(figure, handles)
    figure.draw_without_rendering()  # settles where the axes lie, which the numbers need to know
    places = np.array([(point.x, point.y) for point in points])
    number_points(axes, places, np.empty((0, 2)), [KIND_STYLES[point.kind][0] for point in points])
