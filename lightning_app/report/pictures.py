"""A picture of a report: a figure, its numbers and a sentence on what to see; and what all pictures look like."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

WIDTH = 7.0
"""Of every figure, in inches."""

DPI = 200
"""Twice as fine as a page shows it: a picture that is enlarged stays sharp."""

TEXT_SIZE = 12
"""Of all text, in points: still 9 at three quarters of the width, as a phone shows it."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours that colour-blind readers tell apart (Okabe and Ito, 2008), less black and a yellow too pale for lines."""

MARKERS = "osD^vPX"

DASHES: tuple["str | tuple[int, tuple[float, ...]]", ...] = ("-", (0, (1, 1)), (0, (5, 1, 1, 1)))

LETTERS_PER_LINE = 86
"""About how many letters of the text fit into the width."""

LEGEND_ROW = 0.26
"""Height of a row of a legend, in inches."""


@dataclass(frozen=True)
class Picture:
    """A figure and what belongs to it.

    Args:
        name: stem of its files.
        title: what it shows.
        sentence: what to see in it.
        figure: `WIDTH` inches wide.
        header: of the numbers behind it, one name a column.
        rows: the numbers, each row as long as `header`.
    """

    name: str
    title: str
    sentence: str
    figure: Figure = field(repr=False)
    header: Sequence[str] = field(repr=False)
    rows: Sequence[Sequence[str | float]] = field(repr=False)

    @cached_property
    def png(self) -> bytes:
        """The figure as a PNG file; drawn once, since every drawing moves the layout by a hair."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()

    def csv(self) -> str:
        """The numbers as a CSV file."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([self.header, *self.rows])
        return buffer.getvalue()

    def save(self, folder: str | Path) -> None:
        """Write ``<name>.png`` and ``<name>.csv``; the folder is made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.png").write_bytes(self.png)
        (folder / f"{self.name}.csv").write_text(self.csv(), encoding="utf-8")


@dataclass(frozen=True)
class Style:
    """The look of the line and the points of an expert, task or model, in all pictures.

    Args:
        colour: as ``#RRGGBB``.
        marker: matplotlib's name of a marker.
        dash: matplotlib's name, or offset and lengths, of a line style.
    """

    colour: str
    marker: str = "o"
    dash: str | tuple[int, tuple[float, ...]] = "-"


def styles_of(names: Iterable[str]) -> dict[str, Style]:
    """A style for each name, to be used in all pictures of a study.

    The first six differ in colour and marker; after that a colour comes again with another dash and marker.
    """
    return {
        name: Style(
            PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)], DASHES[min(i // len(PALETTE), len(DASHES) - 1)]
        )
        for i, name in enumerate(dict.fromkeys(names))
    }


def new_figure(height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with panels above each other that share x.

    Args:
        height: in inches, without the legend.
        panels: how many.
    """
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.1))
    axes = list(figure.subplots(panels, sharex=True, squeeze=False)[:, 0])
    for axis in axes:
        axis.tick_params(labelsize=TEXT_SIZE, color="0.6")
        axis.xaxis.label.set_size(TEXT_SIZE)
        axis.yaxis.label.set_size(TEXT_SIZE)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["bottom", "left"]].set_color("0.6")
        axis.grid(color="0.9")
        axis.set_axisbelow(True)
        axis.margins(x=0.02)
    return figure, axes


def draw_line(axes: Axes, x: Sequence[float], y: Sequence[float], style: Style, label: str) -> Line2D:
    """Draw a line, with markers where there are few enough to be told apart.

    Args:
        axes: where.
        x: ascending, ``[n]``.
        y: ``[n]``.
        style: of whom it is.
        label: name in the legend.
    """
    few = len(x) <= 30
    (line,) = axes.plot(
        x, y, color=style.colour, linestyle=style.dash, marker=style.marker if few else "", linewidth=1.8, label=label
    )
    return line


def legend_below(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put a legend under the axes, in as many columns as fit, and make the figure that much higher."""
    widest = max(len(str(handle.get_label())) for handle in handles) + 8  # the sample of the line, and space
    rows = math.ceil(len(handles) / max(1, LETTERS_PER_LINE // widest))
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * rows)
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=math.ceil(len(handles) / rows),
        fontsize=TEXT_SIZE,
        frameon=False,
        markerscale=1.2,
        handlelength=1.8,
        columnspacing=1.2,
    )
