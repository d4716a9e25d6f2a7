"""benchmarks/gpu.sh, as far as a CPU goes: tiny models, gloo for NCCL."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.checks import Checks
from benchmarks.gpu.models import MINILM, save_base
from benchmarks.gpu.speed import Cell, table

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """A Python that has none of the packages that the script must do without."""
    python = tmp_path / "python"
    program = (  # called with: -m benchmarks.gpu, and its arguments
        "import runpy, sys; del sys.argv[1:3]; "
        "from importlib.machinery import PathFinder as finder; find = finder.find_spec; "
        "absent = ('datasets', 'mteb', 'jsonargparse', 'cmaes'); "
        "finder.find_spec = classmethod(lambda cls, name, *where: None if name in absent else find(name, *where)); "
        "runpy.run_module('benchmarks.gpu', run_name='__main__')"
    )
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$@"\n')
    python.chmod(0o755)
    return python


def test_the_whole_script_on_a_cpu(tmp_path: Path, bare_python: Path) -> None:
    out = tmp_path / "out"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": str(bare_python)}
    command = [str(ROOT / "benchmarks/gpu.sh"), "--tiny", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report, content = (out / "gpu.md").read_text(), json.loads((out / "gpu.json").read_text())
    assert report in done.stdout
    checks = {check["check"]: check for check in content["checks"]}
    assert all(check["passed"] for check in checks.values()) and not content["broken"]
    for precision in ("float32", "bfloat16"):
        for loss in ("infonce", "cosent", "supcon"):
            assert {f"loss, {loss}, {precision}", f"gradient, {loss}, {precision}"} <= set(checks)
    assert 0 < checks["embeddings, merge, pairs, bfloat16"]["value"] < 0.02
    for run in ("expert, bf16-mixed", "position by Adam, 32-true", "position by Bfgs, bf16-mixed"):
        assert f"{run}: the process group is gloo (gloo)" in checks
    assert sum("resumed" in name for name in checks) == 2
    cells = {(cell["shape"], cell["job"]): cell for cell in content["speed"]}
    jobs = ["expert", "plain", "position, N = 2", "position, N = 4", "position, N = 8"]
    assert list(cells) == [(shape, job) for shape in ("tiny BERT", "tiny Qwen3") for job in jobs]
    assert all(cell["seconds"] > 0 for cell in cells.values())


def test_without_a_gpu_it_says_what_runs_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "torch sees no CUDA device; --tiny runs everything on the CPU with tiny models" in capsys.readouterr().err


@pytest.mark.parametrize("value", [0.3, float("nan")])
def test_a_number_that_is_off_fails_the_run(value: float, capsys: pytest.CaptureFixture[str]) -> None:
    checks = Checks()
    checks.at_most("right", 0.1, 0.2)
    assert checks.passed
    checks.at_most("wrong", value, 0.2)
    assert not checks.passed
    assert checks.lines() == ["pass  right: 0.1 (at most 0.2)", f"FAIL  wrong: {value:.2g} (at most 0.2)"]
    assert capsys.readouterr().out.splitlines() == checks.lines()


def test_a_section_that_breaks_off_fails_the_run_and_lets_the_next_go_on() -> None:
    checks = Checks()
    with checks.section("first"):
        raise RuntimeError("No backend type associated with device type cpu")
    with checks.section("second"):
        checks.at_most("right", 0.1, 0.2)
    assert not checks.passed
    assert checks.lines()[0].startswith("pass  right")
    assert checks.lines()[1] == "FAIL  first broke off: RuntimeError: No backend type associated with device type cpu"


def test_a_base_that_is_not_there_is_replaced_and_said(tmp_path: Path) -> None:
    said = save_base(tmp_path / "base", str(tmp_path / "nowhere"), MINILM)
    assert said.startswith("random weights of MiniLM's shape (model '")
    assert (tmp_path / "base" / "model.safetensors").is_file()


def test_the_table_names_what_was_skipped() -> None:
    cells = [
        Cell("big", "plain", 0.2, 128, 3 * 2**30),
        Cell("big", "position, N = 2", 0.25, 128, 2**29),
        Cell("big", "position, N = 8", reason="more memory needed than the 80 GiB of the card"),
    ]
    assert table(cells).splitlines()[2:] == [
        "| big | plain | 200.0 | 640 |  | 3.00 |",
        "| big | position, N = 2 | 250.0 | 512 | 1.25 | 0.50 |",
        "| big | position, N = 8 | skipped: more memory needed than the 80 GiB of the card | | | |",
    ]
