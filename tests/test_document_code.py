"""The documents' Python runs as it stands, but for the model, the sizes and the device; so do the examples."""

import re
import runpy
import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from inspect import signature
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from sentence_transformers import SentenceTransformer

from modules.losses import LOSSES
from modules.merging.merge_method import METHODS
from tests.documents import ROOT, Block, blocks
from tests.test_documents import write_data, write_models

TEXTS = ["a red cat", "the blue dog runs", "query : the sky is blue"]

SMALLER = {"max_steps": 4, "max_epochs": 2, "probe_size": 48, "validation_size": 36, "size": 96}
"""Argument to its value on tiny models."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models and the rows of the documents."""
    folder = tmp_path_factory.mktemp("code")
    write_models(folder)
    write_data(folder)
    rows = (folder / "faq.jsonl").read_text().splitlines(keepends=True)
    (folder / "rows.jsonl").write_text("".join(rows[:100]))
    return folder


@pytest.fixture
def there(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which code runs."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(code: str) -> dict[str, Any]:
    """Run a piece of Python on tiny models; returns its names."""
    for key, value in SMALLER.items():
        code = re.sub(rf"\b{key}=\d+", f"{key}={value}", code)
    code = code.replace("sentence-transformers/all-MiniLM-L6-v2", "BASE").replace(
        "Trainer(", "Trainer(accelerator='cpu', "
    )
    made: dict[str, Any] = {}
    exec(code, made)
    return made


CODE = list({block.text: block for block in blocks("python") if not block.file}.values())
"""Python that is no file of its own, each once however many documents have it."""

GIVEN_MODELS = [block for block in CODE if "learn_merge(" in block.text]
WHOLE_JOB = [block for block in CODE if "ContrastiveModule(" in block.text]
EXPORTED = [block for block in CODE if "onnxruntime" in block.text]
"""What reads an exported model is run by tests/test_export.py, beside the export."""


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("block", GIVEN_MODELS, ids=str)
def test_given_models_are_merged_in_five_lines(block: Block) -> None:
    assert len(block.text.strip().splitlines()) <= 5
    merged = run(block.text)["merged"]
    assert list(merged.record["coefficients"]["model"]) == ["A", "B", "C"]
    assert "| self_positioning | " in merged.report
    assert SentenceTransformer("merged", device="cpu").encode(TEXTS).shape == (3, 16)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("block", WHOLE_JOB, ids=str)
def test_the_whole_job_in_python(block: Block) -> None:
    merge = run(block.text)["merge"]
    assert list(merge.expert_names) == ["faq", "similarity"]
    assert merge.best.objective < 1.0
    encoded = SentenceTransformer("merged", device="cpu").encode(TEXTS)
    assert (torch.tensor(encoded) - merge.encoder.encode(TEXTS)).abs().max() < 1e-5


def test_every_piece_of_code_is_run_somewhere() -> None:
    assert GIVEN_MODELS and WHOLE_JOB and EXPORTED
    others = [block for block in CODE if block not in (*GIVEN_MODELS, *WHOLE_JOB, *EXPORTED)]
    assert not others, f"nobody runs {', '.join(map(str, others))}"


FILES = [block for block in blocks("python") if block.file]


@pytest.mark.parametrize("block", [block for block in FILES if "/test_" in block.file], ids=lambda block: block.file)
def test_the_files_that_a_guide_writes(block: Block, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Its tests, with the file beside them in the place that it names."""
    others = [other for other in FILES if other.document == block.document and other != block]
    assert others, f"{block}: tests of what?"
    with patch.dict(METHODS), patch.dict(LOSSES):
        names = [load(other, tmp_path) for other in others]
        made: dict[str, Any] = {"__name__": "guide"}
        exec(compile(block.text, block.file, "exec"), made)
        tests = [test for name, test in made.items() if name.startswith("test_")]
        for test in tests:
            test(**{name: request.getfixturevalue(name) for name in signature(test).parameters})
    assert tests
    for name in names:
        del sys.modules[name]


def load(block: Block, folder: Path) -> str:
    """Load a block as the module that its file would be; returns the module's name."""
    name = block.file.removesuffix(".py").replace("/", ".")
    path = folder / Path(block.file).name
    path.write_text(block.text)
    spec = spec_from_file_location(name, path)
    assert spec and spec.loader and not (ROOT / block.file).exists()
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return name


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_does_what_it_says(
    example: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = example.read_text()
    assert len(text.splitlines()) < 30
    [words] = re.findall(rf"python examples/{example.name} (.*)", text)
    words = words.replace("pairs.jsonl", "faq.jsonl")
    monkeypatch.setattr(sys, "argv", [str(example), *words.split()])
    runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    SAYS[example.stem](printed)


def merges(printed: str) -> None:
    assert SentenceTransformer("merged", device="cpu").encode(TEXTS).shape == (3, 16)


def trains_and_merges(printed: str) -> None:
    assert "'c/faq'" in printed and "'scale'" in printed and "the search " in printed
    merges(printed)


def learns(printed: str) -> None:
    assert "'self_positioning'" in printed and "(1, 16)" in printed
    merges(printed)


def merges_shortest_first(printed: str) -> None:
    first, second = map(float, re.findall(r"'(?:first|second)': ([\d.]+)", printed))
    assert first + second == pytest.approx(1)
    merges(printed)


def answers(printed: str) -> None:
    said = [line.partition(":")[0] for line in printed.splitlines() if line.startswith("step ")]
    assert said == ["step 0", "step 20", "step 40"]  # the first is the check before training


SAYS = {
    "train_and_merge": trains_and_merges,
    "learned_merge": learns,
    "custom_method": merges_shortest_first,
    "custom_callback": answers,
}
