"""MiniLM's published scores on every mirrored task that reproduces them: writes a table of docs/benchmarks.md.

    python benchmarks/oracle.py [TASK ...]

Goes through the verb ``evaluate``, whose results under ``runs/oracle`` a second call takes over, task by task. About an
hour on two cores. Needs the folder ../shared/data/mteb, or another one in MTEB_DATA_ROOT.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
OUT = Path("runs/oracle")
PUBLISHED = {
    "STSBenchmark": 82.03,
    "SICK-R": 77.58,
    "STS12": 72.37,
    "STS14": 75.59,
    "Banking77Classification": 80.042,
    "EmotionClassification": 40.83,
    "AmazonCounterfactualClassification": 63.6,
    "SciFact": 64.51,
    "NFCorpus": 31.59,
    "XQuADRetrieval": 94.357,
    "LegalSummarization": 59.003,
}
"""Main score x 100 on MTEB's leaderboard, of the English part where a task has several."""


def main() -> None:
    """Run the verb and print a Markdown table."""
    tasks = sys.argv[1:] or list(PUBLISHED)
    root = os.environ.get("MTEB_DATA_ROOT", "../shared/data/mteb")
    command = [sys.executable, "-m", "lightning_app", "evaluate", "--model", MODEL, "--languages", "eng"]
    subprocess.run([*command, "--data_root", root, "--out", str(OUT), "--tasks", *tasks], check=True)
    lines = ["| task | measured | published | difference | seconds |", "|---|---:|---:|---:|---:|"]
    for task in tasks:
        files = (OUT / "results" / MODEL.replace("/", "__")).glob(f"*/{task}.json")
        found = json.loads(max(files, key=lambda file: file.stat().st_mtime).read_text())
        [[scores]] = found["scores"].values()
        measured, published = 100 * scores["main_score"], PUBLISHED[task]
        difference = f"{measured - published:+.3f}"
        lines.append(f"| {task} | {measured:.3f} | {published} | {difference} | {found['evaluation_time']:.0f} |")
    print("\n".join(["", *lines]))


if __name__ == "__main__":
    main()
