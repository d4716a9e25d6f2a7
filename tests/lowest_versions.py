"""Prints the lowest version of each distribution that pyproject.toml allows, as constraints for pip."""

import re
import tomllib
from itertools import chain
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"

BOUND = re.compile(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)$")


def lowest_versions(project: Path = PYPROJECT) -> list[str]:
    """Return ``NAME==VERSION`` of every requirement with a lower bound, extras included."""
    metadata = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    requirements = chain(metadata["dependencies"], *metadata["optional-dependencies"].values())
    return [f"{found[1]}=={found[2]}" for line in requirements if (found := BOUND.match(line))]


if __name__ == "__main__":
    print("\n".join(lowest_versions()))
