"""The names of `modules`: found lazily, listed for completion, and the same for type checkers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import modules


def test_every_name_is_what_the_stub_says() -> None:
    stub = ast.parse(Path(modules.__file__).with_suffix(".pyi").read_text())
    exports = [alias for line in stub.body if isinstance(line, ast.ImportFrom) for alias in line.names]
    assert [alias.asname for alias in exports] == [alias.name for alias in exports], "a stub exports `X as X` only"
    names = [alias.name for alias in exports]
    assert sorted(names) == dir(modules) == modules.__all__ and len(set(names)) == len(names) > 20
    for name in names:
        assert getattr(modules, name).__name__ == name


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'modules' has no attribute 'Slrep'"):
        modules.Slrep  # type: ignore[attr-defined]  # noqa: B018


def test_a_name_imports_its_home_only() -> None:
    code = (
        "import sys\n"
        "from modules import Adam, Slerp, UserError\n"
        "print({'transformers', 'sentence_transformers', 'lightning', 'torchmetrics'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
