"""Every distribution that the packages import is declared, and every declared distribution is needed."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("lightning_app", "modules", "datamodules", "callbacks")
NOT_IMPORTED = {"tensorboard", "onnxscript"}
"""Lightning's logger imports the one, torch's export to ONNX the other."""

OPTIONAL = ("onnx",)
"""Extras whose distributions the packages import where they are asked for."""


def imported() -> Iterator[tuple[str, str]]:
    """Top-level names that the packages import from elsewhere, each with a file that does."""
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                for top in {name.partition(".")[0] for name in names} - {*PACKAGES, *sys.stdlib_module_names}:
                    yield top, str(file.relative_to(ROOT))


def canonical(requirement: str) -> str:
    """The name of a distribution in a requirement, as package indices compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def test_imported_distributions_are_the_declared_ones() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in OPTIONAL for line in project["optional-dependencies"][extra]]
    declared = {canonical(line) for line in [*project["dependencies"], *extras]}
    distributions = {canonical(line): [line] for line in extras} | packages_distributions()
    needed: dict[str, str] = {}
    for top, file in imported():
        assert top in distributions, f"{file} imports {top}, which no installed distribution has"
        found = {canonical(name) for name in distributions[top]}
        assert found & declared, f"{file} imports {top}: declare one of {sorted(found)} in pyproject.toml"
        needed |= dict.fromkeys(found & declared, file)
    assert declared == needed.keys() | NOT_IMPORTED
