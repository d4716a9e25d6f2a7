"""Checks of the commands in the documents: each is read by the parser that would read it, and nothing is run."""

import argparse
import contextlib
import io
import re
import runpy
import sys
import tomllib
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from itertools import dropwhile
from pathlib import Path

import pytest

from callbacks.mteb.task_selection import known_names
from lightning_app.__main__ import HELP, VERBS, main
from lightning_app.recipe.command_line import VERBS as OF_RECIPES
from lightning_app.recipe.recipe_parser import parse
from lightning_app.recipe.recipe_schema import VerbOptions
from lightning_app.verbs.merge import make_method
from tests.documents import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def check(words: list[str]) -> None:
    """Check a command; whatever is wrong with it raises."""
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):  # variables of the environment
        words = words[1:]
    program, *arguments = words
    name = "python" if re.fullmatch(r"(\S*/)?python3?", program) else program
    if (ROOT / program).is_file():
        script(program, arguments)
    else:
        assert name in PROGRAMS, f"nobody checks the command {program}"
        PROGRAMS[name](arguments)


def python(arguments: list[str]) -> None:
    if arguments[0] != "-m":
        script(*arguments[:1], arguments[1:])
        return
    module, *rest = arguments[1:]
    known = {"lightning_app": application, "pytest": tests, "pip": pip, "venv": anything}
    known[module](rest)


def application(arguments: list[str]) -> None:
    if arguments[0].startswith("-"):
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(arguments) == 0
        return
    verb, *words = arguments
    assert verb in VERBS, f"there is no verb {verb}"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            tasks = of_recipe(verb, words) if verb in OF_RECIPES else of_no_recipe(verb, words)
    except SystemExit as end:  # of --help and the like
        assert end.code == 0
    else:
        assert set(tasks) <= set(known_names()), tasks


def of_recipe(verb: str, words: list[str]) -> list[str]:
    tasks: list[str] = parse(verb, words).mteb.tasks or []
    return tasks


def of_no_recipe(verb: str, words: list[str]) -> list[str]:
    module = import_module(f"lightning_app.verbs.{verb}")
    options = module.parse(words) if hasattr(module, "parse") else module.make_parser().parse_args(words)
    if getattr(options, "method", None):
        make_method(options)
    return getattr(options, "tasks", None) or []


def script(path: str, arguments: list[str]) -> None:
    file = ROOT / path
    assert file.is_file(), f"there is no {path}"
    if (parser := parser_of_script(file)) is not None:
        parser.parse_args(arguments)
    else:
        parse("study", list(dropwhile(lambda word: not word.startswith("--"), arguments)))  # keys of a recipe


@cache
def parser_of_script(file: Path) -> argparse.ArgumentParser | None:
    """The parser of a script that has one; of a shell script, that of the package of its name."""
    main_file = file if file.suffix == ".py" else file.with_suffix("") / "__main__.py"
    if not main_file.is_file() or "argparse" not in main_file.read_text(encoding="utf-8"):
        return None
    return made_parser(partial(runpy.run_path, str(main_file), run_name="__main__"))


def made_parser(run: Callable[[], object]) -> argparse.ArgumentParser:
    """The parser that a program makes, which is run up to where it parses."""
    made: list[argparse.ArgumentParser] = []

    def reached(parser: argparse.ArgumentParser, *_: object) -> None:
        made.append(parser)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(sys, "argv", ["program"])
        patch.setattr(argparse.ArgumentParser, "parse_args", reached)
        run()
    return made[0]


@cache
def option_names() -> set[str]:
    """Options, other than keys of a recipe, that some program of the project has."""
    verbs = [import_module(f"lightning_app.verbs.{verb}") for verb in VERBS if verb not in OF_RECIPES]
    scripts = [*(ROOT / "benchmarks").glob("*.py"), ROOT / "benchmarks/gpu.sh"]
    parsers = [*(made_parser(partial(verb.main, [])) for verb in verbs), *map(parser_of_script, scripts)]
    found = {option for parser in parsers if parser for action in parser._actions for option in action.option_strings}
    found |= set(re.findall(r"--\w+", HELP))
    return found | {f"--{name}" for name in (*VerbOptions.__dataclass_fields__, "config", "print_config")}


def tests(arguments: list[str]) -> None:
    markers = [line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    for option, word in zip(["", *arguments], arguments, strict=False):
        if option == "-m":
            assert word in markers, f"there is no marker {word}"
        elif not word.startswith("-") and option != "-k":
            assert (ROOT / word.partition("::")[0]).exists(), f"there is no {word}"


def pip(arguments: list[str]) -> None:
    extras = {name for word in arguments for name in re.findall(r"\[([\w,]+)\]", word)}
    assert {name for listed in extras for name in listed.split(",")} <= set(PROJECT["project"]["optional-dependencies"])


def make(arguments: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(arguments) <= set(targets), f"make has {targets}, not {arguments}"


def anything(arguments: list[str]) -> None:
    """Programs of others, whose arguments are their own affair."""


PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "python": python,
    "lightning_app": application,
    "make": make,
    "pip": pip,
    "git": anything,
    "cd": anything,
    "export": anything,
    "pre-commit": anything,
    "tensorboard": anything,
}
