"""The distribution: what a wheel holds, and what the files about it say of versions, hooks and targets."""

import re
import shutil
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.version import Version
from setuptools.build_meta import build_wheel

from tests.documents import ROOT
from tests.lowest_versions import lowest_versions
from tests.test_dependencies import PACKAGES, canonical

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


@pytest.mark.filterwarnings("ignore")  # setuptools warns of the folder of recipes, which is no package
def test_a_wheel_has_every_file_of_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    monkeypatch.chdir(source)
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    ours = {str(path.relative_to(source)) for package in PACKAGES for path in (source / package).rglob("*.*")}
    wheel = ZipFile(tmp_path / build_wheel(str(tmp_path)))
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == ours
    assert {"lightning_app/recipes/quickstart.yaml", "modules/__init__.pyi"} <= ours


def test_one_version_everywhere() -> None:
    assert CITATION["version"] == PROJECT["version"]
    assert f"## [{PROJECT['version']}] - " in (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_has_what_its_format_asks_for() -> None:
    assert CITATION["cff-version"] == "1.2.0" and CITATION["license"] == PROJECT["license"]
    for reference in (CITATION, CITATION["preferred-citation"]):
        assert {"title", "authors"} <= set(reference)
    assert "message" in CITATION and "2410.15035" in CITATION["preferred-citation"]["url"]


def test_every_dependency_has_a_lower_bound_below_what_was_tested() -> None:
    pinned = dict(
        line.strip().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    tested = {canonical(name): Version(version) for name, version in pinned.items()}
    lowest = {canonical(name): Version(version) for name, version in (line.split("==") for line in lowest_versions())}
    assert {canonical(line) for line in PROJECT["dependencies"]} <= set(lowest)
    for name in set(lowest) & set(tested):
        assert lowest[name] <= tested[name], f"{name} was tested in {tested[name]} only"


def test_hooks_run_the_programs_of_the_environment() -> None:
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    declared = {canonical(line) for line in PROJECT["optional-dependencies"]["test"]}
    for hook in repos[0]["hooks"]:
        folder, _, program = hook["entry"].split()[0].rpartition("/")
        assert folder == ".venv/bin" and program in declared and hook["language"] == "system"


def test_help_has_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    [targets] = re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)
    for target in targets.split():
        assert re.search(rf"^{target}:.*  ## \w", makefile, re.MULTILINE), f"make help does not know {target}"
