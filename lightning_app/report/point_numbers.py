"""Numbers beside the points of a picture, each where it has most room."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lightning_app.report.pictures import DPI, TEXT_SIZE

DISTANCES = (20, 28, 38, 50)
"""Of a number from its point, in points."""

ROOM = 20
"""Around a number, in points; more is not better."""


def number_points(
    axes: Axes, places: NDArray[np.float64], others: NDArray[np.float64], colours: Sequence[str] | str = "black"
) -> None:
    """Number the places from 1 on, each number where it has most room around its place.

    Args:
        axes: in a figure that was drawn without rendering, so that it is settled where the axes lie.
        places: ``[n, 2]``.
        others: what else a number is not to cover, ``[m, 2]``.
        colours: of the numbers' circles, one a place or one for all.
    """
    to_pixels = axes.transData.transform
    point = DPI / 72
    taken = [*to_pixels(places), *to_pixels(others)]
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    around = np.array([(r * np.cos(turn), r * np.sin(turn)) for r in DISTANCES for turn in turns])
    frame = axes.bbox.padded(-10 * point)
    for i, place in enumerate(places):
        pixels = to_pixels(place)
        candidates = [offset for offset in around if frame.contains(*(pixels + offset * point))]

        def room(offset: NDArray[np.float64], pixels: NDArray[np.float64] = pixels) -> float:
            nearest = min(np.hypot(*(pixels + offset * point - other)) for other in taken) / point
            return float(min(nearest, ROOM) - 0.1 * np.hypot(*offset))

        offset = max(candidates or around, key=room)
        taken.append(pixels + offset * point)
        colour = colours if isinstance(colours, str) else colours[i]
        axes.annotate(
            str(i + 1),
            place,
            xytext=offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=TEXT_SIZE,
            arrowprops={"arrowstyle": "-", "color": colour, "shrinkA": 0, "shrinkB": 0},
            bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": colour},
            zorder=5,
        ).set_in_layout(False)
