"""Checks that pass or fail, each said in one line."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Check:
    """A number that must not be above a tolerance; NaN fails."""

    name: str
    value: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.value <= self.tolerance

    def __str__(self) -> str:
        return f"{'pass' if self.passed else 'FAIL'}  {self.name}: {self.value:.2g} (at most {self.tolerance:g})"


@dataclass
class Checks:
    """All checks of a run, and what broke off."""

    made: list[Check] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def at_most(self, name: str, value: float, tolerance: float) -> None:
        """Print and keep a check."""
        self.made.append(Check(name, value, tolerance))
        print(self.made[-1], flush=True)

    def true(self, name: str, holds: bool) -> None:
        """Check that something holds: 0 stands for yes, 1 for no."""
        self.at_most(name, 0.0 if holds else 1.0, 0.0)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Turn an error in this block into a failed check, so that the next section runs all the same."""
        started = time.perf_counter()
        print(f"# {name}", flush=True)
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            reason = str(error).partition("\n")[0]
            self.broken.append(f"FAIL  {name} broke off: {type(error).__name__}: {reason}")
            print(self.broken[-1], flush=True)
        print(f"({time.perf_counter() - started:.0f} s)", flush=True)

    @property
    def passed(self) -> bool:
        return not self.broken and all(check.passed for check in self.made)

    def lines(self) -> list[str]:
        """Return a line for each check, and for each section that broke off."""
        return [*map(str, self.made), *self.broken]
