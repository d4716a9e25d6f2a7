"""``python -m lightning_app init``: look at data files and models, and write a first recipe that fits them."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

from lightning_app.verbs.out_file import check_out_file
from lightning_app.verbs.verb_parser import Parser
from modules.errors import UserError

WIDTH = 120

if TYPE_CHECKING:
    from lightning_app.first_recipe.recipe_text import FirstRecipe
    from lightning_app.stages.recipe_models import RecipeModels


def make_parser() -> Parser:
    """Return the parser of the verb."""
    parser = Parser(
        prog="python -m lightning_app init",
        allow_abbrev=False,
        description="Look at data files and models, say what each is, and write a recipe that fits them and this "
        "machine, with comments, and with the time that fit will take.",
    )
    add = parser.add_argument
    add("given", nargs="+", metavar="FILE_OR_MODEL", help="data files (JSON lines, CSV, ...) and models to merge")
    add("--out", default="recipe.yaml", metavar="FILE", help="the recipe to write (recipe.yaml)")
    add("--base", metavar="MODEL", help="what experts are trained from (what all models record, else the quickstart's)")
    add(
        "--columns",
        nargs="+",
        default=[],
        metavar="EXPECTED=COLUMN",
        help="columns that are named otherwise, as anchor=frage positive=antwort",
    )
    return parser


def main(arguments: list[str]) -> None:
    """Run the verb.

    Raises:
        UserError: a mistake of the user's; nothing is written then.
    """
    options = make_parser().parse_args(arguments)
    if (out := check_out_file(options.out)).exists() or out.is_symlink():
        raise UserError(f"{out} is there already: name another file with --out")
    started = perf_counter()
    from lightning_app.first_recipe.propose import propose
    from lightning_app.verbs.quiet_libraries import quiet_libraries

    importing = perf_counter() - started
    quiet_libraries()
    command = f"python -m lightning_app init {shlex.join(arguments)}"
    recipe = propose(options.given, options.base, options.columns, options.out, command)
    recipe, time = _timed(recipe, importing)
    with out.open("x", encoding="utf-8") as file:
        file.write(recipe.text(time))
    for line in _what_next(recipe, time):
        print(textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False))


def _what_next(recipe: FirstRecipe, time: str) -> Iterator[str]:
    """Yield what the recipe is for, and the shorter way where models are there already and rows only learn a merge."""
    yield f"{recipe.out} is written: look at it, then run"
    yield f"  python -m lightning_app fit --config {shlex.quote(recipe.out)}"
    yield time
    if recipe.models and len(recipe.data) == 1:
        source = recipe.data[0].given.source
        columns = [f"{name}={column}" for name, column in (source.columns or {}).items()]
        words = ["--learn", source.source, *(["--columns", *columns] if columns else []), "--base", recipe.base]
        short = shlex.join(["merge", *words, "--experts", *recipe.models.values(), "--out", "merged"])
        yield f"to merge the models without training another one, shorter: python -m lightning_app {short}"


def _timed(recipe: FirstRecipe, importing: float) -> tuple[FirstRecipe, str]:
    """Return a recipe with no more steps than there is time for, and how long `fit` takes with it.

    Args:
        recipe: as proposed.
        importing: seconds that the libraries took to be imported, as they will for `fit`.
    """
    from lightning_app.machine.hardware import usable_cores
    from lightning_app.report.pace import Pace
    from lightning_app.stages.screen import readable
    from lightning_app.stages.stage_graph import with_inputs

    print("timing a few steps of training ...", flush=True)
    models = _models(recipe)
    pace = Pace(models)
    named = {stage.name: stage for stage in with_inputs(models.wanted_stages())}
    experts = {name: pace.seconds(named[name]) for name in recipe.numbers.steps}
    recipe = replace(recipe, numbers=recipe.numbers.within(experts))
    stages = with_inputs(_models(recipe).wanted_stages())
    seconds = {"start": importing} | {stage.name: pace.seconds(stage) for stage in stages}
    parts = ", ".join(f"{name} {readable(each).removeprefix('about ')}" for name, each in seconds.items())
    where = f"{recipe.numbers.machine.device}, {usable_cores()} cores"
    return recipe, f"fit takes {readable(sum(seconds.values()))} on this machine ({where}): {parts}"


def _models(recipe: FirstRecipe) -> RecipeModels:
    """Return the models of a recipe, which is parsed as `fit` parses it."""
    from lightning_app.recipe.recipe_parser import parse
    from lightning_app.verbs.recipe_run import RecipeRun

    with TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(recipe.text(), encoding="utf-8")
        return RecipeRun(parse("fit", ["--config", str(file), "--quiet"])).models
