"""The loss on the plane of two task vectors, the way of Self Positioning on it, and where others stand."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from lightning_app.report.pictures import TEXT_SIZE, Picture, legend_below, new_figure
from lightning_app.report.point_numbers import number_points

PATH = "#D55E00"

CONTOUR = "#0B4F6C"

LOSS_COLOURS = LinearSegmentedColormap.from_list("loss", ["#FFFFFF", "#CFE3EE", "#93BBD3", "#6B8FB0", "#56678C"])
"""Low to high; pale enough for dark lines everywhere."""

DROPS = np.outer(10.0 ** np.arange(-3, 3), [1, 2, 5]).ravel()
"""How far below the best score a contour may lie."""


@dataclass(frozen=True)
class Plane:
    """Measurements at ``theta_0 + c1 * V_1 + c2 * V_2``.

    Args:
        experts: names of the two experts.
        c1: coefficients of the first, ascending, ``[m]``.
        c2: of the second, ascending, ``[n]``.
        loss: on the probe rows, relative to the base's, ``[m, n]``.
        score: average main score x 100 on held-out tasks, ``[m, n]``; None: not measured.
    """

    experts: tuple[str, str]
    c1: ArrayLike
    c2: ArrayLike
    loss: ArrayLike
    score: ArrayLike | None = None


def loss_landscape(plane: Plane, path: ArrayLike, points: Mapping[str, tuple[float, float]]) -> Picture:
    """Filled contours of the loss, lines of equal score, the optimisation path and named points.

    Args:
        plane: what was measured.
        path: coefficients after each step of Self Positioning, ``[steps, 2]``.
        points: model to its coefficients: rival merges, the experts, the base.
    """
    steps = np.asarray(path, float)
    figure, (axes,) = new_figure(5.7)
    axes.grid(visible=False)
    _draw_loss(figure, axes, plane)
    handles = _draw_path(axes, steps)
    places = np.array(list(points.values()), float).reshape(-1, 2)
    axes.plot(
        places[:, 0], places[:, 1], "o", color="black", markersize=6, markeredgecolor="white", clip_on=False, zorder=4.5
    )
    axes.set_xlabel(f"coefficient of {plane.experts[0]}")
    axes.set_ylabel(f"coefficient of {plane.experts[1]}")
    for i, name in enumerate(points, start=1):
        size = 7 if i < 10 else 12  # of a number it is the greater of width and height
        handles.append(Line2D([], [], color="black", marker=f"${i}$", linestyle="", markersize=size, label=name))
    legend_below(figure, handles)
    figure.draw_without_rendering()  # settles where the axes lie, which the numbers need to know
    contours = [text.get_position() for text in axes.texts]
    number_points(axes, places, np.array([*steps, *contours]))
    return Picture(
        "loss_landscape",
        f"Loss on the plane of {plane.experts[0]} and {plane.experts[1]}",
        _sentence(plane, steps),
        figure,
        ["kind", "name", "c1", "c2", "loss", "score"],
        _rows(plane, steps, points),
    )


def _draw_loss(figure: Figure, axes: Axes, plane: Plane) -> None:
    c1, c2, loss = (np.asarray(values, float) for values in (plane.c1, plane.c2, plane.loss))
    # Far from the base the loss explodes: steps that grow keep the valley from being one colour.
    levels = loss.min() + (loss.max() - loss.min()) * np.linspace(0, 1, 13) ** 2
    norm = BoundaryNorm(levels, LOSS_COLOURS.N)
    filled = axes.contourf(c1, c2, loss.T, levels=levels, norm=norm, cmap=LOSS_COLOURS)
    bar = figure.colorbar(filled, ax=axes, spacing="uniform", ticks=levels[::2], aspect=30, pad=0.02)
    bar.ax.set_yticklabels([f"{level:.3f}" for level in levels[::2]], fontsize=TEXT_SIZE)
    bar.set_label("probe loss (the base: 1)", size=TEXT_SIZE)
    if plane.score is None:
        return
    score = np.asarray(plane.score, float)
    best, spread = score.max(), np.ptp(score)
    drops = DROPS[(spread / 100 < DROPS) & (spread > DROPS)]
    lines = axes.contour(c1, c2, score.T, levels=(best - drops)[::-1], colors=CONTOUR, linewidths=1, linestyles="-")
    labels = axes.clabel(lines, fmt=lambda level: f"\N{MINUS SIGN}{best - level:.3g}", fontsize=TEXT_SIZE)
    for label in labels:
        label.set_clip_on(False)
    axes.set_title(f"lines: points below the best held-out score, {best:.1f}", fontsize=TEXT_SIZE, color=CONTOUR)


def _draw_path(axes: Axes, steps: NDArray[np.float64]) -> list[Line2D]:
    outline = [withStroke(linewidth=5, foreground="white")]
    handles = axes.plot(
        steps[:, 0], steps[:, 1], color=PATH, linewidth=2.5, path_effects=outline, label="Self Positioning"
    )
    for label, (x, y), marker, size in (("its start", steps[0], "s", 9), ("its end", steps[-1], "*", 18)):
        handles += axes.plot(
            x, y, marker, color=PATH, markeredgecolor="white", markersize=size, clip_on=False, zorder=4, label=label
        )
    return handles


def _sentence(plane: Plane, steps: NDArray[np.float64]) -> str:
    loss = np.asarray(plane.loss, float)
    parts = [
        f"Self Positioning ends at {_coordinates(*steps[-1])}",
        f"the lowest loss of the grid, {loss.min():.3f}, is at {_grid_point(plane, int(loss.argmin()))}",
    ]
    if plane.score is not None:
        score = np.asarray(plane.score, float)
        parts.append(f"the best held-out score, {score.max():.1f}, at {_grid_point(plane, int(score.argmax()))}")
    return "; ".join(parts) + "."


def _grid_point(plane: Plane, flat: int) -> str:
    c1, c2 = np.asarray(plane.c1, float), np.asarray(plane.c2, float)
    i, j = divmod(flat, len(c2))
    return _coordinates(c1[i], c2[j])


def _coordinates(c1: float, c2: float) -> str:
    return f"({c1:.2f}, {c2:.2f})"


def _rows(
    plane: Plane, steps: NDArray[np.float64], points: Mapping[str, tuple[float, float]]
) -> list[list[str | float]]:
    c1, c2, loss = (np.asarray(values, float).tolist() for values in (plane.c1, plane.c2, plane.loss))
    score = None if plane.score is None else np.asarray(plane.score, float).tolist()
    rows: list[list[str | float]] = [
        ["grid", "", x, y, loss[i][j], "" if score is None else score[i][j]]
        for i, x in enumerate(c1)
        for j, y in enumerate(c2)
    ]
    rows += [["path", str(step), x, y, "", ""] for step, (x, y) in enumerate(steps.tolist())]
    return rows + [["point", name, x, y, "", ""] for name, (x, y) in points.items()]
