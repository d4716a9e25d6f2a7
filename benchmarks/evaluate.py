"""MTEB tasks scored through this package, and through mteb with a SentenceTransformer.

    python benchmarks/evaluate.py --tasks STSBenchmark SICK-R --runs 3 --data_root ../shared/data/mteb

Each evaluation is a process of its own, the two ways take turns, and the scores must be equal. What is timed is
``mteb.evaluate`` alone: model and data are in memory by then.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

TARGETS = {
    ("float32", "SICK-R", "STSBenchmark"): 2.0,
    ("float32", "Banking77Classification", "SICK-R", "STSBenchmark", "SciFact"): 1.05,
    ("bfloat16", "Banking77Classification", "SICK-R", "STSBenchmark", "SciFact"): 1.8,
}
"""Times as fast as theirs, by precision of ours and tasks."""
MEMORY = 1.2
"""Times their peak memory that ours may have."""
TOLERANCE = 0.02
"""By how much a score in float32, of 100, may differ."""


def evaluate(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Score the model in this process: seconds in all and inside ``encode``, peak memory, scores x 100.

    Args:
        way: ``theirs``, or the precision of ours.
        options: of the command line.
    """
    import mteb
    import torch
    from sentence_transformers import SentenceTransformer

    from callbacks import MtebEncoder, load_tasks
    from modules import TextEncoder
    from modules.checkpoints.base_model import find_base_model

    torch.set_num_threads(options.threads)
    folder = find_base_model(options.model)
    model: Any
    if way == "theirs":
        model = SentenceTransformer(str(folder), device="cpu")
    else:
        model = MtebEncoder(TextEncoder.load(folder), precision=way)
    inside = [0.0]
    model.encode = timed(model.encode, inside)
    tasks = load_tasks(options.tasks, options.data_root)
    wall, cpu = time.perf_counter(), time.process_time()
    results = mteb.evaluate(model, tasks, cache=None, show_progress_bar=False).task_results
    return {
        "seconds": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "encode": inside[0],
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "scores": {result.task_name: 100 * result.get_score() for result in results},
    }


def timed(encode: Any, total: list[float]) -> Any:
    """Return the same function, whose seconds are added up."""

    def call(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return encode(*args, **options)
        finally:
            total[0] += time.perf_counter() - start

    return call


def in_process(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Evaluate in a new process."""
    command = [sys.executable, __file__, "--way", way, "--tasks", *options.tasks]
    command += ["--model", options.model, "--threads", str(options.threads)]
    command += ["--data_root", options.data_root] if options.data_root else []
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    run: dict[str, Any] = json.loads(found.splitlines()[-1])
    print(
        f"  {way:>8}: {run['seconds']:.1f} s ({run['encode']:.1f} in encode), processor {run['cpu']:.1f} s", flush=True
    )
    return run


def report(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """Compare the medians, and the scores, of ours in each precision with theirs."""
    for precision in options.precisions:
        ratio = {
            key: statistics.median(r[key] for r in runs["theirs"]) / statistics.median(r[key] for r in runs[precision])
            for key in ("seconds", "cpu", "encode", "megabytes")
        }
        target = TARGETS.get((precision, *sorted(options.tasks)))
        verdict = "" if target is None else f", target {target}x: {'met' if ratio['seconds'] >= target else 'MISSED'}"
        print(f"{precision}: {ratio['seconds']:.2f}x as fast{verdict}")
        print(f"  processor {ratio['cpu']:.2f}x, encode {ratio['encode']:.2f}x")
        memory = 1 / ratio["megabytes"]
        print(f"  peak memory {memory:.2f}x, at most {MEMORY}x: {'met' if memory <= MEMORY else 'MISSED'}")
        for task, score in runs["theirs"][0]["scores"].items():
            mine = runs[precision][0]["scores"][task]
            print(f"  {task}: {mine:.3f}, theirs {score:.3f}")
            assert precision != "float32" or abs(mine - score) < TOLERANCE, f"{task}: the scores differ"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["STSBenchmark", "SICK-R"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--data_root")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precisions", nargs="+", default=["float32"], help="of ours: float32, bfloat16")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--way", help="evaluate in this process (used internally)")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(evaluate(options.way, options)))
        return
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in (*options.precisions, "theirs")}
    for _ in range(options.runs):
        for way, done in runs.items():
            done.append(in_process(way, options))
    report(runs, options)


if __name__ == "__main__":
    main()
