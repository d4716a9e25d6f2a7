"""The first recipe for data files and models, and what is said of each on the way."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from lightning_app.first_recipe.data_summary import HEADER, DataSummary
from lightning_app.first_recipe.given import is_model, named, read_columns, read_given
from lightning_app.first_recipe.known_tasks import overlap_lines
from lightning_app.first_recipe.model_summary import ModelSummary, is_static, settings_needed
from lightning_app.first_recipe.proposal import Machine, Proposal, refuse_few_rows
from lightning_app.first_recipe.recipe_text import WIDTH, FirstRecipe
from lightning_app.recipe.recipe_file import packaged_recipes, read_recipe
from lightning_app.report.rows_table import prompts_of
from lightning_app.stages.model_loading import ModelLoading
from lightning_app.unique_names import numbered
from modules import UserError
from modules.checkpoints.common_base import common_base
from modules.markdown import markdown_table


def propose(
    given: Sequence[str],
    base: str | None,
    columns: Sequence[str],
    out: str,
    command: str,
    say: Callable[[str], None] = print,
) -> FirstRecipe:
    """Look at data files and models, say what each is, and return the recipe that fits them.

    Args:
        given: files, folders of files, and models.
        base: theta_0; None: what all models record, or without models the quickstart's.
        columns: names of columns that are named otherwise, see `read_columns`.
        out: the file that the recipe will be.
        command: that asks for it.
        say: prints a line.

    Raises:
        UserError: something cannot be read, has too few rows, or cannot be merged.
    """
    by_name = named(given)
    models = {name: each for name, each in by_name.items() if is_model(each)}
    files = {name: each for name, each in by_name.items() if name not in models}
    if not files:
        raise UserError(
            "no data file is given, and a recipe needs rows: name one, or merge the models without rows "
            "(python -m lightning_app merge --help)"
        )
    otherwise = read_columns(columns, list(files.values()))
    read = [read_given(name, file, otherwise[file]) for name, file in files.items()]
    for found in read:
        refuse_few_rows(found.rows.name, len(found.rows))
    base, why = _base(base, models)
    encoder = ModelLoading(base=base).load(base)
    data = [DataSummary.of(each, prompts_of(base), encoder.tokenizer) for each in read]
    say(markdown_table(HEADER, [each.cells() for each in data]))
    for each in data:
        for note in each.given.rows.notes:
            say(_wrapped(f"- {each.name}: {note}"))
    for line in overlap_lines([each.given.rows for each in data]):
        say(_wrapped(f"- {line}"))
    say(_wrapped(f"- base: {base} ({why}): {ModelSummary.of(base)}"))
    for name, model in models.items():
        say(_wrapped(f"- expert {name}: {ModelSummary.of(model)}"))
    settings_of = settings_needed(base, models)
    machine = Machine.of(_device())
    numbers = Proposal.of(data, encoder.max_length, machine, static=is_static(base))
    return FirstRecipe(command, out, _free_run_dir(out), base, why, data, models, settings_of, numbers)


def _base(given: str | None, models: Mapping[str, str]) -> tuple[str, str]:
    """Return theta_0, and the reason."""
    if given is not None:
        return given, "as told"
    if models:
        return common_base(models), "which all models record"
    return str(read_recipe(packaged_recipes()["quickstart"]).content["model"]["base"]), "the quickstart's"


def _wrapped(line: str) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def _device() -> torch.device:
    """Return the device that Lightning takes where none is told."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if found is None else found


def _free_run_dir(out: str) -> str:
    """Return a folder that is not there yet, named after the recipe."""
    stem = Path(out).stem
    taken = [path.name for path in Path("runs").glob("*")]
    return f"runs/{numbered([stem], taken)[0]}"
