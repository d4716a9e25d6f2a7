"""Pictures of the position: scores along lines through it, its way there, and what it depends on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lightning_app.report.pictures import TEXT_SIZE, Picture, Style, draw_line, legend_below, new_figure

SCALE = Style("#000000", "x", (0, (4, 2)))

OBJECTIVE = Style("#000000")


def score_against_weight(
    weights: Sequence[float],
    scores: Mapping[str, Sequence[float]],
    chosen: float,
    between: tuple[str, str],
    styles: Mapping[str, Style],
) -> Picture:
    """Scores of merges of two experts against the weight of the second.

    Args:
        weights: 0 (the first alone) to 1 (the second alone), ascending, ``[n]``.
        scores: task to main scores x 100, each ``[n]``.
        chosen: weight of the second expert at the position found, within `weights`.
        between: names of the two experts.
        styles: of the tasks.

    Raises:
        ValueError: `chosen` is outside `weights`.
    """
    first, second = between
    picture = _Line(
        "score_against_weight",
        f"Score against interpolation weight, from {first} to {second}",
        f"weight (0: {first} alone, 1: {second} alone)",
    )
    return picture.draw(weights, scores, chosen, styles)


def score_against_scale(
    scales: Sequence[float], scores: Mapping[str, Sequence[float]], chosen: float, styles: Mapping[str, Style]
) -> Picture:
    """Scores of merges in one direction against their scale.

    Args:
        scales: ascending, ``[n]``.
        scores: task to main scores x 100, each ``[n]``.
        chosen: scale of the position found, within `scales`.
        styles: of the tasks.

    Raises:
        ValueError: `chosen` is outside `scales`.
    """
    picture = _Line("score_against_scale", "Score against the scale of the merged task vector", "scale")
    return picture.draw(scales, scores, chosen, styles)


@dataclass(frozen=True)
class _Line:
    """A picture of scores along a line."""

    name: str
    title: str
    x_label: str

    def draw(
        self, x: Sequence[float], scores: Mapping[str, Sequence[float]], chosen: float, styles: Mapping[str, Style]
    ) -> Picture:
        if not x[0] <= chosen <= x[-1]:
            raise ValueError(f"{self.name}: the chosen point {chosen} is outside {x[0]} to {x[-1]}")
        average = [fmean(column) for column in zip(*scores.values(), strict=True)]
        # Tasks differ by more than any of them moves: each is drawn against its own score at the chosen point.
        drawn = {task: np.asarray(y) - np.interp(chosen, x, y) for task, y in [*scores.items(), ("average", average)]}
        figure, (axes,) = new_figure(4.3)
        axes.axhline(0, color="0.3", linewidth=1)
        axes.axvline(chosen, color="0.3", linewidth=1)
        axes.annotate(
            "Self Positioning",
            (chosen, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=TEXT_SIZE,
        )
        lines = [draw_line(axes, x, drawn[task].tolist(), styles[task], task) for task in scores]
        lines += axes.plot(x, drawn["average"], color="black", linewidth=4, zorder=1.9, label="average")
        axes.set_xlabel(self.x_label)
        axes.set_ylabel("points above Self Positioning")
        legend_below(figure, lines)
        best = [x[int(np.argmax(y))] for y in scores.values()]
        at = int(np.argmax(average))
        return Picture(
            self.name,
            self.title,
            f"The average is best at {x[at]:.2g}, {drawn['average'][at]:.2f} points above Self Positioning at "
            f"{chosen:.2f}; the single tasks are best at {min(best):.2g} to {max(best):.2g}.",
            figure,
            [self.x_label, *scores, "average"],
            list(zip(x, *scores.values(), average, strict=True)),
        )


def position_along_training(
    steps: Sequence[int],
    coefficients: Mapping[str, Sequence[float]],
    scale: Sequence[float],
    styles: Mapping[str, Style],
) -> Picture:
    """The coefficients and the scale at every optimiser step.

    Args:
        steps: ascending, ``[n]``.
        coefficients: expert to factor of its task vector, each ``[n]``.
        scale: ``[n]``.
        styles: of the experts.
    """
    figure, (axes,) = new_figure(4.1)
    lines = _draw_position(axes, steps, coefficients, scale, styles)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("coefficient, scale")
    legend_below(figure, lines)
    ends = ", ".join(f"{name} {values[0]:.2f} to {values[-1]:.2f}" for name, values in coefficients.items())
    return Picture(
        "position_along_training",
        "The position along its training",
        f"From step {steps[0]} to step {steps[-1]}: {ends}; scale {scale[0]:.2f} to {scale[-1]:.2f}.",
        figure,
        ["step", *coefficients, "scale"],
        list(zip(steps, *coefficients.values(), scale, strict=True)),
    )


@dataclass(frozen=True)
class Sweep:
    """Positions found with different values of a setting.

    Args:
        values: of the setting, ascending, ``[n]``.
        coefficients: expert to factor of its task vector, each ``[n]``.
        scale: ``[n]``.
        objective: mean loss on the probe-validation rows relative to the base's, ``[n]``.
    """

    values: Sequence[float]
    coefficients: Mapping[str, Sequence[float]]
    scale: Sequence[float]
    objective: Sequence[float]


def sensitivity_to_mu(sweep: Sweep, styles: Mapping[str, Style]) -> Picture:
    """The position found, and its objective, against `mu`, the pull on the scale."""
    return _sensitivity("mu", "mu", sweep, styles)


def sensitivity_to_probe_size(sweep: Sweep, styles: Mapping[str, Style]) -> Picture:
    """The position found, and its objective, against the number of probe rows."""
    picture = _sensitivity("probe_size", "probe rows", sweep, styles)
    for axes in picture.figure.axes:
        axes.set_xscale("log")
        axes.set_xticks(sweep.values, [f"{value:,.0f}" for value in sweep.values])
        axes.minorticks_off()
    return picture


def sensitivity_to_seed(sweep: Sweep, styles: Mapping[str, Style]) -> Picture:
    """The position found, and its objective, with different seeds; points, since seeds have no order."""
    picture = _sensitivity("seed", "seed", sweep, styles, joined=False)
    for axes in picture.figure.axes:
        axes.set_xticks(sweep.values)
        axes.margins(x=0.1)
    return picture


def _sensitivity(name: str, x_label: str, sweep: Sweep, styles: Mapping[str, Style], joined: bool = True) -> Picture:
    figure, (above, below) = new_figure(5.8, panels=2)
    lines = _draw_position(above, sweep.values, sweep.coefficients, sweep.scale, styles)
    above.set_ylabel("coefficient, scale")
    objective = draw_line(below, sweep.values, sweep.objective, OBJECTIVE, "objective")
    if not joined:
        for line in [*lines, objective]:
            line.set(linestyle="", markersize=8)
    below.set_ylabel("validation objective")
    below.set_xlabel(x_label)
    figure.align_ylabels()
    legend_below(figure, lines)
    spreads = {expert: pstdev(found) for expert, found in sweep.coefficients.items()}
    widest = max(spreads, key=spreads.__getitem__)
    low, high = min(sweep.objective), max(sweep.objective)
    return Picture(
        f"sensitivity_to_{name}",
        f"What was found against {x_label}",
        f"The objective is {low:.3f} to {high:.3f}, lowest at {sweep.values[sweep.objective.index(low)]:g}; "
        f"the coefficient of {widest} varies most, with a standard deviation of {spreads[widest]:.3f}.",
        figure,
        [x_label, *sweep.coefficients, "scale", "objective"],
        list(zip(sweep.values, *sweep.coefficients.values(), sweep.scale, sweep.objective, strict=True)),
    )


def _draw_position(
    axes: Axes,
    x: Sequence[float],
    coefficients: Mapping[str, Sequence[float]],
    scale: Sequence[float],
    styles: Mapping[str, Style],
) -> list[Line2D]:
    lines = [draw_line(axes, x, values, styles[expert], expert) for expert, values in coefficients.items()]
    return [*lines, draw_line(axes, x, scale, SCALE, "scale")]
