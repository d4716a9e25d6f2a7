"""Three ways to search a position, at equal numbers of forward passes: writes the table of docs/search.md.

    python benchmarks/search.py

Each search is a stage of one run folder (``runs/search``): a second call goes on where the first stopped. A forward
pass is one probe batch of 16 rows embedded. Needs the folder ../shared/data.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

RUN = Path("runs/search")
SEARCHES: dict[str, tuple[str, dict[str, float], float]] = {
    # name: class, its arguments, and how many times an epoch embeds the probe (for CMA-ES: its population)
    "Adam, lr 5e-3 (the paper's)": ("modules.Adam", {"lr": 5e-3}, 1),
    "Adam, lr 2e-2": ("modules.Adam", {"lr": 2e-2}, 1),
    "BFGS": ("modules.Bfgs", {}, 1.25),
    "CMA-ES": ("modules.CmaEs", {"population": 7}, 7),
}
EXPERTS = {2: ["sts", "retrieval"], 4: ["sts", "retrieval", "intents", "emotions"]}
ROWS, BATCH = 64, 16
"""Probe rows of an expert, and rows of a batch."""
BUDGETS = (48, 96, 192)


def run(search: str, options: dict[str, float], passes: float, experts: list[str]) -> tuple[dict, float]:
    """Learn a position within the largest budget; what was found and the seconds it took."""
    epochs = round(BUDGETS[-1] / (passes * len(experts) * ROWS / BATCH))
    arguments = {
        "model.experts": json.dumps({name: {"recipe": name} for name in experts}),
        "model.search": json.dumps({"class_path": search, "init_args": options}),
        "probe.size": ROWS * len(experts),
        "probe.reserve": 384 * len(experts),
        "probe.validation_size": 192 * len(experts),
        "position.max_epochs": epochs,
        "position.check_val_every_n_epoch": max(1, epochs * len(experts) // 16),
    }
    command = [sys.executable, "-m", "lightning_app", "fit", "--config", "benchmarks/search.yaml"]
    subprocess.run([*command, *(f"--{key}={value}" for key, value in arguments.items())], check=True)
    found = re.search(r"the model: (.*)/model", (RUN / "report.md").read_text())
    assert found
    folder = Path(found[1])
    seconds = json.loads((folder / "seconds.json").read_text())["seconds"]
    return json.loads((folder / "position.json").read_text()), seconds


def best_until(history: list[dict], budget: int) -> str:
    """The best probe-validation objective seen within a budget of forward passes."""
    seen = [point["objective"] for point in history if point["forward"] <= budget]
    return f"{min(seen):.4f}" if seen else "-"


def main() -> None:
    """Run all searches for 2 and 4 experts and print a Markdown table for each."""
    for count, experts in EXPERTS.items():
        print(f"\n## N = {count}: {', '.join(experts)}\n", flush=True)
        columns = [f"best within {budget}" for budget in BUDGETS]
        lines = [f"| search | {' | '.join(columns)} | forward | backward | seconds | coefficients |"]
        lines += ["|---|" + "---:|" * (len(columns) + 3) + "---|"]
        for name, settings in SEARCHES.items():
            found, seconds = run(*settings, experts)
            cells = [best_until(found["history"], budget) for budget in BUDGETS]
            c = " / ".join(f"{value:.3f}" for key, value in found["position"].items() if key.startswith("c/"))
            passes = found["passes"]
            lines.append(
                f"| {name} | {' | '.join(cells)} | {passes['forward']} | {passes['backward']} | {seconds:.0f} | {c} |"
            )
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
