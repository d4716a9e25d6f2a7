"""Anonymous memory of a merge on disk: python benchmarks/merge_memory.py --experts 8 --gigabytes 1 --method slerp.

Makes a base and experts of random float32 weights with the tensors of a transformer, merges them as the command line
does, with a cache of angles of its own, and watches RssAnon. Then the same again with the same bytes in about four
times as many tensors.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from modules.checkpoints.checkpoint_io import CheckpointWriter, Specs, TensorFile
from modules.gram import CHUNK

WIDTH = 1024
WORDS = 30_000
ALLOWANCE = 300 * 10**6
"""Bytes for Python, torch and buffers, beside a chunk of each task vector in float64."""


def shapes(gigabytes: float, pieces: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a transformer of about this size in float32; its layers' matrices cut into so many pieces."""
    words = min(WORDS, int(gigabytes * 1e9 / 8 / 4 / WIDTH))
    found: dict[str, tuple[int, ...]] = {"embeddings.word_embeddings.weight": (words, WIDTH)}
    parts = [(f"attention.{part}", WIDTH, WIDTH) for part in ("query", "key", "value", "output")]
    parts += [("intermediate", 4 * WIDTH, WIDTH), ("output", WIDTH, 4 * WIDTH)]
    layers = round((gigabytes * 1e9 / 4 - words * WIDTH) / (12 * WIDTH**2))
    for layer in range(max(1, layers)):
        for part, rows, columns in parts:
            for piece in range(pieces):
                found[f"encoder.layer.{layer}.{part}.{piece}.weight"] = (rows // pieces, columns)
            found[f"encoder.layer.{layer}.{part}.bias"] = (rows,)
    return found


def write_model(folder: Path, specs: Specs, seed: int, base: Path | None = None) -> None:
    """Random weights, or the base's plus a little noise."""
    torch.manual_seed(seed)
    start = TensorFile(base / "model.safetensors") if base else None
    with CheckpointWriter(folder, specs, 10**12) as writer:
        for key, (_, shape) in specs.items():
            noise: Tensor = 0.02 * torch.randn(shape)
            writer.write(key, noise if start is None else start.read(key) + 0.05 * noise)
    (folder / "config.json").write_text('{"model_type": "bert"}\n')


def watch(command: list[str], cache: Path) -> dict[str, float]:
    """Run a command; its peak RssAnon and bytes read, and the seconds it took."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"HF_HOME": str(cache)})
    found = {"peak": 0.0, "read": 0.0}
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            traffic = Path(f"/proc/{process.pid}/io").read_text()
        except OSError:
            break
        anonymous = [line for line in status.splitlines() if line.startswith("RssAnon")]
        if anonymous:  # it has none left once it has ended
            found["peak"] = max(found["peak"], int(anonymous[0].split()[1]) * 1024)
            found["read"] = int(traffic.split()[1])
        time.sleep(0.01)
    assert process.wait() == 0, f"exit status {process.returncode}"
    return found | {"seconds": time.perf_counter() - began}


def measure(folder: Path, experts: int, gigabytes: float, method: str, pieces: int) -> None:
    """Make models, merge them twice, print what it took; the second time the angles are known."""
    found = shapes(gigabytes, pieces)
    specs = {key: (torch.float32, shape) for key, shape in found.items()}
    write_model(folder / "base", specs, 0)
    models = [folder / f"expert{i}" for i in range(experts)]
    for i, model in enumerate(models):
        write_model(model, specs, i + 1, folder / "base")
    largest = 4 * max(torch.Size(shape).numel() for shape in found.values())
    total = 4 * sum(torch.Size(shape).numel() for shape in found.values())
    limit = (experts + 3) * largest + experts * min(8 * CHUNK, 2 * largest) + ALLOWANCE
    print(f"{experts} experts of {total / 1e9:.2f} GB in {len(found)} tensors, the largest {largest / 1e6:.0f} MB")
    for name in ("first", "again"):
        command = [sys.executable, "-m", "lightning_app", "merge", "--method", method, "--base", str(folder / "base")]
        did = watch([*command, "--experts", *map(str, models), "--out", str(folder / name)], folder / "cache")
        verdict = "within" if did["peak"] < limit else "OVER"
        print(
            f"  {method}, {name}: RssAnon {did['peak'] / 1e6:.0f} MB, {verdict} {limit / 1e6:.0f} MB; "
            f"{did['seconds']:.1f} s; read {did['read'] / 1e9:.2f} GB, models are {(experts + 1) * total / 1e9:.2f} GB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=2)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of one model")
    parser.add_argument("--method", default="slerp")
    parser.add_argument("--folder", default=None, help="where the models are made, and removed again")
    options = parser.parse_args()
    for pieces in (1, 4):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measure(Path(folder), options.experts, options.gigabytes, options.method, pieces)


if __name__ == "__main__":
    main()
