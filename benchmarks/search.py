"""Three ways to search a position, at equal numbers of forward passes: writes the table of docs/search.md.

    python benchmarks/search.py

Each search is a stage of one run folder (``runs/search``): a second call goes on where the first stopped. A forward
pass is one probe batch of 32 rows embedded. Needs the folder ../shared/data.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

RUN = Path("runs/search")
SEARCHES = {
    # name: search, epochs (of 12 batches each for Adam, of one step on the whole probe for the others), validations
    "Adam, lr 5e-3 (the paper's)": ("modules.Adam", {"lr": 5e-3}, 40, 5),
    "Adam, lr 2e-2": ("modules.Adam", {"lr": 2e-2}, 40, 5),
    "BFGS": ("modules.Bfgs", {}, 30, 1),
    "CMA-ES": ("modules.CmaEs", {}, 7, 1),
}
EXPERTS = {2: ["sts", "retrieval"], 4: ["sts", "retrieval", "intents", "emotions"]}
BUDGETS = (120, 240, 480)


def run(search: str, options: dict[str, float], epochs: int, every: int, experts: list[str]) -> tuple[dict, float]:
    """Learn a position; what was found and the seconds it took."""
    rows = 192 * len(experts)
    arguments = {
        "model.experts": json.dumps({name: {"recipe": name} for name in experts}),
        "model.search": json.dumps({"class_path": search, "init_args": options}),
        "data.size": 96 * len(experts),
        "data.reserve": 384 * len(experts),
        "data.validation_size": rows,
        "trainer.max_epochs": epochs,
        "trainer.check_val_every_n_epoch": every,
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
