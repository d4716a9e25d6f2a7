"""Pictures of why to merge at all: task conflict and data imbalance in joint training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from lightning_app.report.pictures import TEXT_SIZE, Picture, Style, draw_line, legend_below, new_figure, styles_of

JOINT = "#000000"


@dataclass(frozen=True)
class TaskScores:
    """Main scores x 100 on one task.

    Args:
        expert: name of the task's own expert.
        base: score of the base model.
        own: score of the task's own expert.
        joint: score of the joint model.
    """

    expert: str
    base: float
    own: float
    joint: float


def task_conflict(scores: Mapping[str, TaskScores], styles: Mapping[str, Style]) -> Picture:
    """For every task, how far its own expert and the joint model are from the base.

    Args:
        scores: task to scores.
        styles: of the experts.
    """
    figure, (axes,) = new_figure(0.7 + 0.7 * len(scores))
    for y, (task, of) in enumerate(scores.items()):
        axes.barh(y + 0.02, of.own - of.base, 0.22, color=styles[of.expert].colour)
        axes.barh(y + 0.26, of.joint - of.base, 0.22, color=JOINT)
        gains = f"base {of.base:.1f}, {of.expert} {of.own - of.base:+.1f}, joint {of.joint - of.base:+.1f}"
        text = axes.text(0.01, y - 0.29, f"{task}: {gains}", transform=axes.get_yaxis_transform(), va="center")
        text.set(fontsize=TEXT_SIZE, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_yticks([])
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("points above the base")
    experts = {f"expert {of.expert}": styles[of.expert].colour for of in scores.values()}
    colours = {**experts, "joint model": JOINT}
    legend_below(
        figure,
        [Line2D([], [], color=c, marker="s", markersize=8, linestyle="", label=name) for name, c in colours.items()],
    )
    differences = [of.joint - of.own for of in scores.values()]
    return Picture(
        "task_conflict",
        "Task conflict: each task's own expert and the joint model",
        f"The joint model scores below the task's own expert on {sum(d < 0 for d in differences)} of {len(scores)} "
        f"tasks; the mean difference is {fmean(differences):+.2f} points.",
        figure,
        ["task", "expert", "base", "own", "joint", "own - base", "joint - base", "joint - own"],
        [
            [
                *(task, of.expert, of.base, of.own, of.joint),
                *(round(b - a, 6) for a, b in ((of.base, of.own), (of.base, of.joint), (of.own, of.joint))),
            ]
            for task, of in scores.items()
        ],
    )


def gradient_cosines(steps: Sequence[int], cosines: Mapping[tuple[str, str], Sequence[float]]) -> Picture:
    """Cosine between the gradients of two tasks' losses, along joint training.

    Args:
        steps: optimiser steps at which it was measured, ascending, ``[n]``.
        cosines: pair of tasks to cosines, each ``[n]``.
    """
    figure, (axes,) = new_figure(4.1)
    labels = {pair: " / ".join(pair) for pair in cosines}
    styles = styles_of(labels.values())
    axes.axhline(0, color="0.3", linewidth=1)
    lines = [draw_line(axes, steps, cosines[pair], styles[label], label) for pair, label in labels.items()]
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("optimiser step of joint training")
    axes.set_ylabel("cosine of the gradients")
    legend_below(figure, lines)
    means = {pair: fmean(values) for pair, values in cosines.items()}
    lowest = min(means, key=means.__getitem__)
    below = fmean(value < 0 for values in cosines.values() for value in values)
    return Picture(
        "gradient_cosines",
        "Task conflict: cosine between the gradients of two tasks",
        f"{below:.0%} of the cosines are below zero; {labels[lowest]} has the lowest mean, {means[lowest]:.2f}.",
        figure,
        ["step", *labels.values()],
        list(zip(steps, *cosines.values(), strict=True)),
    )


class Fit(NamedTuple):
    """The line ``slope * x + intercept``, and the share of the variance of y that it explains."""

    slope: float
    intercept: float
    r2: float


def linear_fit(x: ArrayLike, y: ArrayLike) -> Fit:
    """The least-squares line of ``y`` on ``x``; R^2 of a constant y, where nothing is to explain, is 0.

    Args:
        x: ``[n]``.
        y: ``[n]``.

    Raises:
        ValueError: x has fewer than two different values.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    centred = x - x.mean()
    if not centred.any():
        raise ValueError("a line needs two different x")
    slope = centred @ y / (centred @ centred)
    left = y - y.mean() - slope * centred
    total = ((y - y.mean()) ** 2).sum()
    return Fit(float(slope), float(y.mean() - slope * x.mean()), float(1 - left @ left / total) if total else 0.0)


@dataclass(frozen=True)
class SizedExpert:
    """An expert trained on so many examples.

    Args:
        expert: its name; several sizes of one expert share it.
        examples: how many it was trained on.
        norm: of its task vector.
    """

    expert: str
    examples: int
    norm: float


def norm_against_examples(points: Sequence[SizedExpert], styles: Mapping[str, Style]) -> Picture:
    """Norm of the task vector against the number of training examples, with the least-squares line.

    Args:
        points: experts of several sizes.
        styles: of the experts.

    Raises:
        ValueError: all experts have the same size.
    """
    figure, (axes,) = new_figure(4.1)
    fit = linear_fit([p.examples for p in points], [p.norm for p in points])
    ends = np.array([0, 1.05 * max(p.examples for p in points)])
    lines = axes.plot(ends, fit.slope * ends + fit.intercept, color="0.4", linewidth=2, label="least squares")
    for expert in dict.fromkeys(p.expert for p in points):
        sizes, norms = zip(*sorted((p.examples, p.norm) for p in points if p.expert == expert), strict=True)
        line = draw_line(axes, sizes, norms, styles[expert], expert)
        line.set(linewidth=0.8, markersize=9)
        lines.append(line)
    axes.set_xlim(0, ends[1])
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("training examples")
    axes.set_ylabel("norm of the task vector")
    legend_below(figure, lines)
    return Picture(
        "norm_against_examples",
        "Data imbalance: norm of the task vector against training examples",
        f"The line over all {len(points)} points has R² = {fit.r2:.2f}: {fit.slope * 1000:+.2g} a thousand examples.",
        figure,
        ["expert", "examples", "norm", "norm on the line"],
        [[p.expert, p.examples, p.norm, fit.slope * p.examples + fit.intercept] for p in points],
    )


@dataclass(frozen=True)
class JointDirection:
    """The cosine of a joint model with an expert.

    Args:
        expert: its name.
        share: of the joint model's data that is of the expert's data set, 0 to 1.
        cosine: between the joint model's task vector and the expert's.
    """

    expert: str
    share: float
    cosine: float


def direction_against_share(points: Sequence[JointDirection], styles: Mapping[str, Style]) -> Picture:
    """Cosine between the joint vector and each expert's vector against the expert's share of the joint data.

    Args:
        points: of joint models with different shares, for each of the experts.
        styles: of the experts.
    """
    figure, (axes,) = new_figure(4.1)
    lines, ends = [], []
    for expert in dict.fromkeys(p.expert for p in points):
        shares, cosines = zip(*sorted((p.share, p.cosine) for p in points if p.expert == expert), strict=True)
        lines.append(draw_line(axes, [100 * share for share in shares], cosines, styles[expert], expert))
        ends.append(f"{expert} {cosines[0]:.2f} to {cosines[-1]:.2f}")
    axes.axhline(0, color="0.3", linewidth=1, zorder=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
    axes.set_xlabel("the expert's share of the joint data")
    axes.set_ylabel("cosine with the joint vector")
    legend_below(figure, lines)
    return Picture(
        "direction_against_share",
        "Data imbalance: direction of the joint vector against data share",
        f"Cosine with the joint vector from the smallest to the largest share: {', '.join(ends)}.",
        figure,
        ["expert", "share", "cosine"],
        [[p.expert, p.share, p.cosine] for p in points],
    )
