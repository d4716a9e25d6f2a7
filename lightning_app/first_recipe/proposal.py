"""The numbers of a first recipe: what fits the lengths and the number of the rows, and the machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from datamodules import load_tasks
from lightning_app.first_recipe.data_summary import DataSummary
from lightning_app.machine.hardware import GIB, Hardware
from modules import UserError

FEWEST_ROWS = 36
"""Rows of a data set, at least: two thirds to train on, and a third in which to learn and to choose a position."""

LARGE_MEMORY = 24 * GIB
"""Memory of an accelerator from which batches are larger."""


FEWEST_STEPS, MOST_EPOCHS = 30, 5
"""Steps of an expert where its data set is so small that once through it is fewer, and how often it is gone through."""

LONGEST = 300
"""Seconds that an expert trains, about, at most: a first recipe is to show its result within the hour."""


@dataclass(frozen=True)
class Machine:
    """The bounds that a machine sets.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``.
        longest: tokens of a text in training, at most.
        batch: rows of a step, at most.
        tokens: of one text column of a step, about, at most.
        most_steps: optimiser steps of an expert, at most.
        probe: probe rows of a data set, at most.
        precision: of Lightning's Trainer.
        why: the reason of the precision.
    """

    device: str
    longest: int
    batch: int
    tokens: int
    most_steps: int
    probe: int
    precision: str
    why: str

    @classmethod
    def of(cls, device: torch.device) -> "Machine":
        """Return the bounds that a device sets."""
        if device.type == "cuda":
            large = torch.cuda.get_device_properties(device).total_memory >= LARGE_MEMORY
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            precision, why = ("bf16-mixed", "this GPU has it") if native else ("32-true", "this GPU has no bfloat16")
            return cls("cuda", 256, 64, 16_384 if large else 8192, 2000, 512, precision, why)
        if device.type == "mps":
            return cls("mps", 256, 32, 8192, 1000, 256, "32-true", "bf16-mixed where the device has it")
        native = Hardware.of_this_machine().native_bf16
        precision, why = ("bf16-mixed", "this processor has it") if native else ("32-true", "bfloat16 is emulated here")
        return cls("cpu", 128, 32, 2048, 300, 128, precision, why)


@dataclass(frozen=True)
class Proposal:
    """The numbers of a recipe.

    Args:
        max_length: tokens of a text in training.
        batch_size: rows of a step.
        lr: peak learning rate.
        rows: data set to the number of rows that its expert trains on.
        steps: data set to the optimiser steps of its expert.
        probe: rows of each data set to learn the position on.
        validation: rows of each data set to choose on.
        probe_batch: rows of a batch of the probe.
        machine: the bounds.
    """

    max_length: int
    batch_size: int
    lr: float
    rows: dict[str, int]
    steps: dict[str, int]
    probe: int
    validation: int
    probe_batch: int
    machine: Machine

    @classmethod
    def of(cls, data: Sequence[DataSummary], limit: int, machine: Machine, *, static: bool) -> "Proposal":
        """Choose the numbers.

        Args:
            data: the data sets.
            limit: tokens of a text that the base reads at most.
            machine: the bounds.
            static: whether the base is a table of token embeddings, which learns at a much higher rate.

        Raises:
            UserError: a data set has too few rows that do not belong together.
        """
        max_length = min(_multiple_of_8(max(each.quantile(0.95) for each in data)), machine.longest, limit)
        short = max_length <= machine.longest // 2
        third = min(len(each.given.rows) for each in data) // 3
        rows, probe = _split(data, min(machine.probe if short else machine.probe // 2, third * 2 // 3))
        batch_size = _power_of_two(min(machine.batch, max(16, machine.tokens // max_length), *rows.values()))
        probe_batch = probe // -(-probe // machine.batch)
        return cls(
            max_length,
            batch_size,
            1e-2 if static else 3e-5,
            rows,
            {name: _steps(count / batch_size, machine.most_steps) for name, count in rows.items()},
            probe // probe_batch * probe_batch,
            probe // 2,
            probe_batch,
            machine,
        )

    def epochs(self, name: str) -> float:
        """Return how often an expert goes through its rows."""
        return self.steps[name] * self.batch_size / self.rows[name]

    def within(self, seconds: Mapping[str, float]) -> "Proposal":
        """Return the same numbers, with fewer steps of the experts that would train for longer than `LONGEST`.

        Args:
            seconds: data set to how long its expert trains.
        """
        fitting = {name: round(steps * LONGEST / seconds[name]) for name, steps in self.steps.items()}
        steps = {name: min(steps, max(FEWEST_STEPS, fitting[name])) for name, steps in self.steps.items()}
        return replace(self, steps=steps)


def _steps(epoch: float, most: int) -> int:
    """Return once through the rows; for few rows more often, for many not all of them."""
    return max(1, min(most, max(round(epoch), min(FEWEST_STEPS, round(MOST_EPOCHS * epoch)))))


def _split(data: Sequence[DataSummary], probe: int) -> tuple[dict[str, int], int]:
    """Return the rows of each data set that are left to train on, and the probe rows that all of them can have.

    Args:
        data: the data sets.
        probe: rows wanted for the probe, of each; half as many are held out to choose on.

    Raises:
        UserError: too few are left, because many rows belong together.
    """
    sources = {each.name: each.given.source for each in data}
    splits = load_tasks(sources, probe_size=probe, validation_size=probe // 2)
    for name, split in splits.items():
        _refuse_few(f"the probe of {name}", len(split.probe), 4)
        _refuse_few(f"the training part of {name}", len(split.expert), 4)
    held_out = min(len(split.probe) for split in splits.values())
    if held_out < probe:
        return _split(data, held_out)
    return {name: len(split.expert) for name, split in splits.items()}, probe


def refuse_few_rows(name: str, rows: int) -> None:
    """Refuse a data set that is too small for a recipe.

    Args:
        name: of the data set.
        rows: that it has.

    Raises:
        UserError: they are too few.
    """
    _refuse_few(name, rows, FEWEST_ROWS)


def _refuse_few(what: str, rows: int, fewest: int) -> None:
    if rows < fewest:
        raise UserError(
            f"{what} has {rows} rows, too few to train on some and learn a position on others: give {fewest} or more"
        )


def _multiple_of_8(number: int) -> int:
    """Return the least multiple of eight that is no smaller than a number."""
    return -(-number // 8) * 8


def _power_of_two(number: int) -> int:
    """Return the largest power of two up to a number."""
    return 1 << (number.bit_length() - 1)
