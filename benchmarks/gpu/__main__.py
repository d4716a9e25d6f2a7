"""See docs/gpu.md.

    benchmarks/gpu.sh --out DIR

compares a GPU with the CPU, trains on it, and measures how fast. The exit status is 1 if a check fails.
"""

import argparse
import json
import logging
import os
import shlex
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for the runs that are to be repeated exactly

import lightning
import torch
import transformers

from benchmarks.gpu.checks import Checks
from benchmarks.gpu.equality import check_equality
from benchmarks.gpu.models import SHAPES, TINY_SHAPES, save_base, save_noisy
from benchmarks.gpu.speed import Cell, as_json, measure_speed, table
from benchmarks.gpu.training import check_training

SECONDS = 7 * 60
"""No cell of the table is begun later than this after the start."""


def be_quiet() -> None:
    """Leave the screen to the results."""
    warnings.filterwarnings("ignore", category=UserWarning)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    transformers.logging.disable_progress_bar()


def head(device: torch.device, base: str) -> dict[str, str]:
    """Return device, versions, model and command, which the figures belong to."""
    card = "CPU"
    if device.type == "cuda":
        card = (
            f"{torch.cuda.get_device_name(device)}, {torch.cuda.get_device_properties(device).total_memory >> 30} GiB"
        )
    return {
        "device": card,
        "torch": torch.__version__,
        "CUDA": str(torch.version.cuda),
        "lightning": lightning.__version__,
        "transformers": transformers.__version__,
        "checked and trained": base,
        "command": shlex.join(["benchmarks/gpu.sh", *sys.argv[1:]]),
    }


def write(out: Path | None, about: dict[str, str], checks: Checks, cells: list[Cell]) -> None:
    """Print the report, and keep it in a folder if there is one."""
    lines = [f"- {key}: {value}" for key, value in about.items()]
    report = "\n".join([*lines, "", "```", *checks.lines(), "```", "", table(cells), ""])
    print(f"\n{report}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "gpu.md").write_text(report)
        made = [{"check": c.name, "value": c.value, "tolerance": c.tolerance, "passed": c.passed} for c in checks.made]
        content = {"about": about, "checks": made, "broken": checks.broken, "speed": as_json(cells)}
        (out / "gpu.json").write_text(json.dumps(content, indent=1) + "\n")


def main() -> int:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for gpu.md and gpu.json")
    parser.add_argument(
        "--base", default="sentence-transformers/all-MiniLM-L6-v2", help="model to check and train; else random weights"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny random models, on the CPU")
    options = parser.parse_args()
    if not (options.tiny or torch.cuda.is_available()):
        parser.error("torch sees no CUDA device; --tiny runs everything on the CPU with tiny models")
    be_quiet()
    device = torch.device("cpu" if options.tiny else "cuda")
    shapes = TINY_SHAPES if options.tiny else SHAPES
    checks, cells = Checks(), list[Cell]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = save_base(folder / "base", None if options.tiny else options.base, shapes[0])
        about = head(device, base)
        print("\n".join(f"{key}: {value}" for key, value in about.items()), flush=True)
        for i in range(2):
            save_noisy(folder / "base", folder / f"noisy{i}", seed=i)
        experts = {f"noisy{i}": str(folder / f"noisy{i}") for i in range(2)}
        with checks.section("equality with the CPU"):
            check_equality(checks, folder / "base", experts, device)
        with checks.section("training in a process group"):
            check_training(checks, folder, experts, shapes[0].lr, device)
    with checks.section("speed"):
        for cell in measure_speed(shapes, device, started + SECONDS):
            cells.append(cell)
            print(cell, flush=True)
    write(options.out, about, checks, cells)
    print(f"{'all checks passed' if checks.passed else 'CHECKS FAILED'}, {time.monotonic() - started:.0f} s")
    return 0 if checks.passed else 1


if __name__ == "__main__":
    sys.exit(main())
