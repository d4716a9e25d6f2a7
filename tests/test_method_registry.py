"""The registry of merge methods: complete, on the command line, and the same in every table."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import modules
from lightning_app.__main__ import main
from lightning_app.recipe.named_merges import MERGES
from lightning_app.verbs.merge import methods_table
from lightning_app.verbs.method_options import COLLECTED, INNER, KINDS, method_options
from modules.merging import MergeMethod
from modules.merging.merge_method import METHODS, register
from modules.merging.weightings import WEIGHTINGS
from tests.documents import DOCUMENTS

ROOT = Path(__file__).parent.parent


def test_every_method_is_registered_and_exported() -> None:
    exported = {name for name in modules.merging.__all__ if name != "MergeMethod"}
    assert {kind.__name__ for kind in METHODS.values()} == exported
    assert exported <= set(modules.__all__)
    for name, kind in METHODS.items():
        assert name == kind.name == Path(inspect.getfile(kind)).stem
        assert kind.reference.startswith(("arXiv ", "https://"))
        assert "\n" not in kind.formula


def test_a_name_is_taken_once_and_is_that_of_the_file() -> None:
    class Again(MergeMethod):
        name = "slerp"

    class Squares(MergeMethod):
        name = "squares"

    with pytest.raises(AssertionError, match="two merge methods are called 'slerp'"):
        register(Again)
    with pytest.raises(AssertionError, match="'squares' is in a file of another name"):
        register(Squares)


def test_the_options_on_the_command_line_are_the_arguments_of_the_classes() -> None:
    assert set(method_options()) == set(METHODS)
    for name, options in method_options().items():
        arguments = [key for key in inspect.signature(METHODS[name]).parameters if key not in COLLECTED]
        assert [option.key for option in options] == [INNER if key == "method" else key for key in arguments]
        assert all(option.kind in KINDS and option.text for option in options)


def test_help_has_every_method_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["merge", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert ", ".join(method_options()) in shown
    for name, options in method_options().items():
        assert all(f"--{option.key}" in shown and f"{name}: {option.text}" in shown for option in options)


def test_the_list_is_the_table_of_the_documents(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "--list"]) == 0
    listed = capsys.readouterr().out.strip()
    assert listed == methods_table()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in listed.splitlines()]
    assert {len(row) for row in rows} == {6}
    assert {row[0].strip("`") for row in rows[2:]} == {*METHODS, *(weighting.name for weighting in WEIGHTINGS)}
    shown = [document for document in DOCUMENTS if listed.splitlines()[0] in document.read_text()]
    assert ROOT / "docs/merging.md" in shown
    for document in shown:
        assert listed in document.read_text(), f"{document} has another table than merge --list"


def test_the_list_needs_no_heavy_libraries() -> None:
    code = (
        "import sys\nfrom lightning_app.__main__ import main\nmain(['merge', '--list'])\n"
        "print('loaded', {'transformers', 'lightning', 'datasets', 'mteb'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded set()\n")


def test_every_row_of_the_table_is_a_merge_of_a_recipe() -> None:
    for name, kind in METHODS.items():
        assert type(MERGES[name].method) is kind and MERGES[name].weighting == "equal"
    for weighting in WEIGHTINGS:
        assert MERGES[weighting.name].weighting == weighting.key
