"""Names and options of the merge methods, read from their sources: help must not wait until torch is imported."""

import argparse
import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import docstring_parser

import modules

FOLDER = Path(modules.__file__).parent / "merging"

INNER = "inner"
"""The option for a method's argument ``method``, the method underneath."""

KINDS: dict[str, dict[str, Any]] = {
    "bool": {"action": argparse.BooleanOptionalAction},
    "float": {"type": float, "metavar": "X"},
    "int": {"type": int, "metavar": "N"},
    "list[str] | None": {"nargs": "+", "metavar": "NAME"},
    "MergeMethod | None": {"metavar": "METHOD"},
}
"""Annotation of a method's argument to the settings of its option."""

COLLECTED = ("rows",)
"""Arguments that say how statistics are collected, which a merge on disk only reads."""


class MethodOption(NamedTuple):
    """An argument of a method.

    Args:
        key: the option's name.
        kind: the argument's annotation.
        text: of the docstring, and the default.
    """

    key: str
    kind: str
    text: str


@cache
def method_options() -> dict[str, list[MethodOption]]:
    """Return the name of every registered merge method with its options."""
    exports = ast.parse((FOLDER / "__init__.py").read_text(encoding="utf-8")).body
    names = [str(line.module).rpartition(".")[2] for line in exports if isinstance(line, ast.ImportFrom)]
    sources = {name: ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8")) for name in names}
    registered = {
        name: node
        for name, source in sources.items()
        for node in source.body
        if isinstance(node, ast.ClassDef) and "register" in map(ast.unparse, node.decorator_list)
    }
    return {name: list(_options_of(node)) for name, node in registered.items()}


def _options_of(method: ast.ClassDef) -> Iterator[MethodOption]:
    documented = docstring_parser.parse(ast.get_docstring(method) or "").params
    texts = {param.arg_name: param.description or "" for param in documented}
    makers = [node for node in method.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    for maker in makers:
        for argument, default in zip(maker.args.args[1:], maker.args.defaults, strict=True):
            if argument.arg in COLLECTED or argument.annotation is None:
                continue
            text = " ".join(texts[argument.arg].replace("`", "").split()).removesuffix(".")
            value = ast.unparse(default)
            shown = text if value in ("None", "False") else f"{text} ({value})"
            key = INNER if argument.arg == "method" else argument.arg
            yield MethodOption(key, ast.unparse(argument.annotation), shown)


def add_method_options(parser: argparse.ArgumentParser) -> None:
    """Add one option per name of an argument, whichever methods have it."""
    group = parser.add_argument_group("options of a method")
    kinds: dict[str, str] = {}
    texts: dict[str, list[str]] = {}
    for method, options in method_options().items():
        for option in options:
            kinds[option.key] = option.kind
            texts.setdefault(option.key, []).append(f"{method}: {option.text}")
    for key, kind in kinds.items():
        group.add_argument(f"--{key}", help="; ".join(texts[key]).replace("%", "%%"), **KINDS[kind])


def takers(key: str) -> list[str]:
    """Return the names of the methods that have an option."""
    return [method for method, options in method_options().items() if key in (option.key for option in options)]


def option_keys() -> list[str]:
    """Return the names of the options of all methods."""
    return list(dict.fromkeys(option.key for options in method_options().values() for option in options))
