"""The installed packages against the versions that this application needs, and those that it was tested with."""

import json
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTION = "embedding-self-positioning"

TESTED = Path(__file__).with_name("tested_versions.json")
"""Name of each required package to its lowest version, and to the version that the tests ran with."""


@dataclass(frozen=True)
class Package:
    """A required package.

    Args:
        name: of the distribution.
        least: the lowest version that will do.
        tested: the version of the tests.
        installed: the version that is there; None: none is.
    """

    name: str
    least: str
    tested: str
    installed: str | None

    @property
    def will_do(self) -> bool:
        """True where it is there, and new enough."""
        return self.installed is not None and numbers(self.installed) >= numbers(self.least)

    @property
    def as_tested(self) -> bool:
        """True where it is of the version of the tests, whatever it was built for (``2.13.0+cpu``)."""
        return self.installed is not None and self.installed.partition("+")[0] == self.tested


def required_packages() -> list[Package]:
    """Return all required packages."""
    known: dict[str, dict[str, str]] = json.loads(TESTED.read_text(encoding="utf-8"))
    return [Package(name, **versions, installed=installed_version(name)) for name, versions in known.items()]


def is_lacking(module: str | None) -> bool:
    """Return whether a module that is not found is so because required packages are missing or too old."""
    return module is not None and not all(package.will_do for package in required_packages())


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution; None: it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def numbers(version: str) -> list[int]:
    """Return the numbers of a version, for comparison."""
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]
