"""The way of a learned position, and what was found at its end, as its stage has written them."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from callbacks import CoefficientTrace, ProbeTrace
from lightning_app.report.table import Table
from lightning_app.stages.learn import POSITION
from modules.json_files import read_json
from modules.positioning.ending import Ending

CAPTION = (
    "Positions learned: `a` the free numbers, `c` the factor of each task vector (means over the groups of a position "
    "that has several), `objective` the mean loss on the probe-validation rows relative to the base's."
)

KINDS = ("a", "c", "scale", "objective")
"""The columns of a table of positions, by the first part of their names."""


@dataclass(frozen=True)
class PositionPath:
    """A position on its way, and where it ended; it stands at the best point, which need not be the last.

    Args:
        steps: optimiser steps, ``[n]``.
        coefficients: expert to factor of its task vector, each ``[n]``; of several groups the means over them.
        scale: ``[n]``.
        chosen: expert to the factor kept.
        chosen_scale: the scale kept.
    """

    steps: list[int]
    coefficients: dict[str, list[float]]
    scale: list[float]
    chosen: dict[str, float]
    chosen_scale: float


def read_path(folder: Path) -> PositionPath:
    """Return the way that a learned position took.

    Args:
        folder: of its stage.
    """
    rows = _read_trace(folder / CoefficientTrace.FILE)
    found = read_json(folder / POSITION)["mean_position"]
    experts = [key.removeprefix("c/") for key in found if key.startswith("c/")]

    def column(name: str) -> list[float]:
        groups = [key for key in rows[0] if key == name or key.startswith(f"{name}/")]
        return [float(np.mean([row[key] for key in groups])) for row in rows]

    return PositionPath(
        [int(row["step"]) for row in rows],
        {name: column(f"c/{name}") for name in experts},
        column("scale"),
        {name: found[f"c/{name}"] for name in experts},
        found["scale"],
    )


@dataclass(frozen=True)
class ProbeLosses:
    """The losses on the probe-validation rows while a position was learned, relative to the base's.

    Args:
        losses: data set to loss at the start and at each validation, each ``[1 + validations]``.
        kept: number of the validation whose position is kept; 0: the start.
    """

    losses: dict[str, list[float]]
    kept: int


def read_probe_losses(folder: Path) -> ProbeLosses | None:
    """Return the losses that a learned position had on its way.

    Args:
        folder: of its stage.

    Returns:
        None: they were not kept.
    """
    file = folder / ProbeTrace.FILE
    if not file.is_file():
        return None
    rows = _read_trace(file)
    losses = {name: [row[name] for row in rows] for name in rows[0] if name != "step"}
    return ProbeLosses(losses, read_ending(folder).best)


def read_ending(folder: Path) -> Ending:
    """Return how the search of a learned position ended.

    Args:
        folder: of its stage.
    """
    return Ending(**read_json(folder / POSITION)["ending"])


def positions_table(folders: Mapping[str, Path], others: Mapping[str, Path] | None = None) -> Table:
    """Return the table of where learned positions stand, and how their searches ended.

    Args:
        folders: name of each learned merge to the folder of its stage.
        others: merges that have no row, of whose search the end is said, too.
    """
    found = {}
    for name, folder in folders.items():
        read = read_json(folder / POSITION)
        found[name] = {**read["mean_position"], "objective": read["objective"]}
    names = dict.fromkeys(key for numbers in found.values() for key in numbers)
    columns = sorted(names, key=lambda key: KINDS.index(key.split("/")[0]))
    rows = [[name, *(f"{of[key]:.3f}" if key in of else "" for key in columns)] for name, of in found.items()]
    notes = [f"{name} {read_ending(folder)}" for name, folder in {**folders, **(others or {})}.items()]
    return Table(CAPTION, ["model", *columns], rows, notes=notes)


def _read_trace(file: Path) -> Sequence[Mapping[str, float]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(opened)]
