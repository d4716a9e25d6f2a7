"""The text of a first recipe, with comments that say what to change."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from lightning_app.first_recipe.data_summary import DataSummary
from lightning_app.first_recipe.proposal import Proposal
from modules.losses.loss import FITTING

COMMENT, WIDTH = 30, 120
"""The column in which comments begin where the line is not longer, and the characters of a line."""

WHY_LOSS = {
    "infonce": "the other positives of a batch are each anchor's negatives",
    "cosent": "pairs of higher score are to be nearer than pairs of lower score",
    "supcon": "texts of one label are to be near each other",
}


@dataclass(frozen=True)
class FirstRecipe:
    """All that a first recipe says.

    Args:
        command: that it comes from.
        out: the file.
        run_dir: of the run.
        base: folder or hub name of theta_0.
        why_base: the reason of this base.
        data: the data sets, an expert each.
        models: name to folder or hub name of the experts that are there already.
        settings_of: whose prompts and longest text the merge takes; None: the models agree.
        numbers: of the recipe.
    """

    command: str
    out: str
    run_dir: str
    base: str
    why_base: str
    data: Sequence[DataSummary]
    models: Mapping[str, str]
    settings_of: str | None
    numbers: Proposal

    def text(self, time: str = "") -> str:
        """Return the YAML.

        Args:
            time: says how long `fit` takes; empty: it is not known.
        """
        parts = [self._head(time), self._model(), self._recipes(), self._probe(), self._rest()]
        return "\n\n".join("\n".join(part) for part in parts) + "\n"

    def _head(self, time: str) -> Iterator[str]:
        yield f"# Written by: {self.command}"
        yield f"# Run it:     python -m lightning_app fit --config {_plain(self.out)}"
        if time:
            yield textwrap.fill(f"{time[0].upper()}{time[1:]}.", WIDTH, initial_indent="# ", subsequent_indent="# ")
        yield "# All keys:   python -m lightning_app fit --help; one section: fit --help recipes"
        yield "# Paths are relative to the folder in which it is run."
        yield "seed_everything: 0"
        yield _line(
            f"run_dir: {_plain(self.run_dir)}",
            f"the model will be {self.run_dir}/model, the report {self.run_dir}/report.html",
        )

    def _model(self) -> Iterator[str]:
        yield "model:"
        yield _line(f"  base: {_plain(self.base)}", f"{self.why_base}; another folder or hub name may be better")
        yield _line("  experts:", "what is merged: each is trained below, or NAME: FOLDER is there already")
        for each in self.data:
            yield f"    {each.name}: {{recipe: {each.name}}}"
        for name, model in self.models.items():
            yield f"    {name}: {_plain(model)}"
        if self.settings_of is not None:
            yield _line(
                f"  settings_of: {self.settings_of}", "whose prompts and longest text the merge has: the models differ"
            )
        yield _line("  mu: 0.02", "a larger number keeps the merged model nearer to the base")

    def _recipes(self) -> Iterator[str]:
        numbers = self.numbers
        yield _line("recipes:", "the experts to train, one for each file")
        yield "  defaults:"
        cut = ", ".join(_cut(each, numbers.max_length) for each in self.data if each.longer(numbers.max_length))
        yield _line(f"    max_length: {numbers.max_length}", f"tokens of a text; longer texts are cut: {cut or 'none'}")
        yield _line(f"    batch_size: {numbers.batch_size}", "rows of a step; time grows with both")
        yield _line(f"    lr: {numbers.lr:.1e}", "peak learning rate; a smaller one keeps an expert nearer to the base")
        for each in self.data:
            yield from self._recipe(each)

    def _recipe(self, each: DataSummary) -> Iterator[str]:
        loss = FITTING[each.given.rows.kind]
        yield _line(f"  {each.name}:", f"{len(each.given.rows):,} {each.kind}")
        yield f"    data: [{_plain(_source(each))}]"
        yield _line(f"    loss: {{name: {loss}, temperature: 0.05}}", WHY_LOSS[loss])
        yield _line(
            f"    max_steps: {self.numbers.steps[each.name]}",
            f"{self.numbers.epochs(each.name):.1f} times through the rows to train on",
        )

    def _probe(self) -> Iterator[str]:
        numbers, count = self.numbers, len(self.data)
        yield _line("probe:", "rows kept out of all training: the position is learned, and the best chosen, on them")
        yield _line(f"  size: {count * numbers.probe}", f"{numbers.probe} of each file")
        yield _line(f"  validation_size: {count * numbers.validation}", f"{numbers.validation} of each file")
        yield f"  batch_size: {numbers.probe_batch}"
        yield f"  max_length: {numbers.max_length}"
        if self.models:
            yield _line("  tasks:", "named here, because experts that are there already bring no rows")
            for each in self.data:
                yield f"    - {_plain(_source(each) | {'name': each.name})}"

    def _rest(self) -> Iterator[str]:
        # Those that have a loss on the probe-validation rows, which compares models where there are no tasks.
        rivals = ["base", "task_arithmetic", *(["joint_pulled_back"] if len(self.data) > 1 else [])]
        joint = "; joint, one model on all files, trains as long as all experts" if len(self.data) > 1 else ""
        yield _line(f"baselines: [{', '.join(rivals)}]", f"what the merge is compared with{joint}")
        yield ""
        yield _line("mteb:", "scores of all models; with tasks, experts and joint are baselines that tell more")
        yield _line(
            "  tasks: []", "[STSBenchmark, SciFact], say: from the hub, or from data_root, a folder of org/name"
        )
        yield ""
        machine = self.numbers.machine
        yield "trainer:"
        yield _line("  devices: 1", "GPUs: all of them with -1 and strategy: ddp")
        yield _line(f"  precision: {machine.precision}", machine.why)
        yield "  num_sanity_val_steps: 0"
        yield "  log_every_n_steps: 1"


def _cut(each: DataSummary, tokens: int) -> str:
    part = each.longer(tokens)
    return f"{f'{part:.0%}' if part >= 0.01 else 'below 1%'} of {each.name}"


def _source(each: DataSummary) -> dict[str, Any]:
    """Return the description of a data set, without what is as by default."""
    given = each.given.source
    told = {"columns": given.columns, "score_range": given.score_range and list(given.score_range)}
    return {"source": given.source} | {key: value for key, value in told.items() if value}


def _line(text: str, comment: str) -> str:
    """Return a line with its comment behind it, or above it where that would be too long."""
    line = f"{text:{COMMENT}}  # {comment}"
    indent = " " * (len(text) - len(text.lstrip()))
    return line if len(line) <= WIDTH else f"{indent}# {comment}\n{text}"


def _plain(value: Any) -> str:
    """Return a value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
