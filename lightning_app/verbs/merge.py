"""``python -m lightning_app merge``: merge models on disk; needs transformers and Lightning only to learn on rows."""

from __future__ import annotations

import argparse
import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lightning_app.unique_names import unique_names
from lightning_app.verbs.hub_options import add_hub_options, destination, send
from lightning_app.verbs.learning_options import METHOD, add_learning_options, check_learning_options, learn
from lightning_app.verbs.mergekit_config import from_mergekit, is_mergekit
from lightning_app.verbs.method_options import INNER, add_method_options, method_options, option_keys, takers
from lightning_app.verbs.verb_parser import Parser
from lightning_app.verbs.weights_by import parse_weights
from modules.errors import Interrupted, UserError, nearest
from modules.markdown import markdown_table

if TYPE_CHECKING:
    from modules.merging import MergeMethod


def make_parser() -> Parser:
    """The verb's options."""
    parser = Parser(
        prog="python -m lightning_app merge",
        allow_abbrev=False,
        description="Merge experts on disk, tensor by tensor, without building a model; with --learn at a position "
        "that is learned on rows of your own.",
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="a YAML file with the same keys, or mergekit's; the command line wins")
    add("--list", action="store_true", help="print what there is to choose from for --method, and what it needs")
    add("--method", help=", ".join(method_options()))
    add("--base", metavar="MODEL", help="folder or hub name of the model that the experts were trained from")
    add("--experts", nargs="+", metavar="MODEL", help="folders or hub names of models, or folders of LoRA adapters")
    add("--coefficients", nargs="+", type=float, metavar="A", help="one an expert; by default the method's equal ones")
    add(
        "--weights_by",
        nargs="+",
        metavar="EXPRESSION=A,A",
        help="other coefficients for tensors in whose name a regular expression is found, the first that is: mlp=0.2,1",
    )
    add("--scale", type=float, help="what the merged task vector is multiplied with (1)")
    add(
        "--granularity",
        default="model",
        help="one angle for the model, a layer, a tensor, or a number of groups (model)",
    )
    add("--dtype", choices=["float32", "bfloat16", "float16"], help="of the merged weights (as in the base)")
    add("--max_shard_size", default="5GB", help="of an output file (5GB)")
    add("--adapter_rank", type=int, metavar="R", help="write one LoRA adapter of this rank instead of a model")
    add("--settings_of", metavar="NAME", help="base or an expert: whose longest text and prompts, where they differ")
    add("--allow_suspicious", **_flag("merge duplicates, and experts of another base, all the same"))
    add("--out", metavar="DIR", help="the new folder")
    add("--dare", type=float, metavar="DENSITY", help="any: drop all but this fraction of the entries first, at random")
    add_method_options(parser)
    add_learning_options(parser)
    add_hub_options(parser)
    return parser


def _flag(text: str) -> dict[str, Any]:
    return {"action": argparse.BooleanOptionalAction, "help": text}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the verb's arguments, those of its YAML file first.

    Raises:
        UserError: a key is unknown, missing or has a wrong value.
    """
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.config:
        options = parser.parse_args([*_as_arguments(Path(options.config), parser), *arguments])
    if options.list:
        return options
    check_learning_options(options)
    needed = ("experts", "out") if options.learn else ("method", "base", "experts", "out")
    missing = [key for key in needed if not getattr(options, key)]
    if missing:
        raise UserError(f"--{missing[0]} is missing; python -m lightning_app merge --help")
    if options.granularity.isdecimal():
        options.granularity = int(options.granularity)
    if options.adapter_rank is not None and options.adapter_rank < 1:
        raise UserError(f"adapter_rank is {options.adapter_rank}; it is at least 1")
    return options


def _as_arguments(file: Path, parser: Parser) -> list[str]:
    """The keys of a YAML file as they would stand on the command line."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(f"--config {file} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a mapping of keys to values")
    if is_mergekit(content):
        content = from_mergekit(content, file)
    known = {action.dest for action in parser._actions} - {"help", "config", "list"}
    arguments = []
    for key, value in content.items():
        if key not in known:
            raise UserError(f"{file}: unknown key '{key}'{parser.near(str(key))}")
        if isinstance(value, bool):
            arguments.append(f"--{key}" if value else f"--no-{key}")
        elif value is not None:
            arguments += [f"--{key}", *map(str, value)] if isinstance(value, list) else [f"--{key}={value}"]
    return arguments


def make_method(options: argparse.Namespace) -> MergeMethod:
    """Return the merge method that the options name.

    Raises:
        UserError: there is no such method, or an option does not belong to it.
    """
    from modules.merging import Dare

    names = [name for name in (options.method, options.inner) if name is not None]
    for name in names:
        _check_name(name)
    given = {key: getattr(options, key) for key in option_keys() if getattr(options, key) is not None}
    for key in given:
        own = names[:1] if key == INNER else names
        if key == "seed" and options.dare is not None:
            own = [*names, Dare.name]
        if not set(own) & set(takers(key)):
            raise UserError(f"--{key} is no option of {' or '.join(own)}; it is one of {', '.join(takers(key))}")
    method = _make(names, given)
    return method if options.dare is None else Dare(method, options.dare, given.get("seed", 0))


def _check_name(name: str) -> None:
    from modules.merging.weightings import WEIGHTINGS

    for weighting in WEIGHTINGS:
        if name == weighting.name:
            raise UserError(
                f"'{name}' weighs by {weighting.needs}: it is a merge of fit (baselines: [{name}]); "
                "on disk give its coefficients to task_arithmetic"
            )
    if name not in method_options():
        raise UserError(
            f"unknown method '{name}'; " + nearest(name, method_options(), f"use {', '.join(method_options())}")
        )


def _make(names: list[str], given: dict[str, Any]) -> MergeMethod:
    """Return the first method, over the second if there are two; an option is that of the first that has it."""
    from modules.merging.merge_method import METHODS

    name, *inner = names
    own = {key: value for key, value in given.items() if name in takers(key) and key != INNER}
    if inner:
        others = {key: value for key, value in given.items() if key not in own and key != INNER}
        own["method"] = _make(inner, others)
    return METHODS[name](**own)


def methods_table() -> str:
    """Return the table of all methods and fixed weightings, in Markdown."""
    from modules.merging.method_table import HEADER, table_rows

    return markdown_table(HEADER, table_rows(), numbers=False)


def _return_freed_memory() -> None:
    """Have every freed tensor given back to the system at once.

    By default glibc keeps blocks of up to 32 MB for later use after the first was freed, and in pieces that do not fit
    the next tensor.
    """
    mmap_threshold = -3
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(mmap_threshold, 1 << 20)


def main(arguments: list[str]) -> None:
    """Run the verb.

    Raises:
        UserError: a mistake of the user's.
        Interrupted: the user stopped it.
    """
    options = parse(arguments)
    if options.list:
        print(methods_table())
        return
    options.push_to_hub = destination(options)
    if options.learn:
        options.method = options.method or METHOD
        learn(options, method=make_method(options), **_plan_options(options))
    else:
        try:
            _merge(options)
        except KeyboardInterrupt as stop:
            raise Interrupted("stopped; nothing was written") from stop
    send(options)


def _plan_options(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Plan` beside models, method and coefficients."""
    import torch

    from modules.checkpoints.checkpoint_io import parse_size

    return {
        "granularity": options.granularity,
        "dtype": getattr(torch, options.dtype) if options.dtype else None,
        "max_shard_bytes": parse_size(options.max_shard_size),
        "allow_suspicious": bool(options.allow_suspicious),
        "adapter_rank": options.adapter_rank,
        "settings_of": options.settings_of,
    }


def _merge(options: argparse.Namespace) -> None:
    _return_freed_memory()

    from modules.model_card.finding import Finding
    from modules.on_disk.merge_files import merge_files
    from modules.on_disk.plan import Plan

    plan = Plan(
        base=options.base,
        experts=dict(zip(unique_names(options.experts), options.experts, strict=True)),
        method=make_method(options),
        a=options.coefficients,
        scale=1.0 if options.scale is None else options.scale,
        **_plan_options(options),
        weights_by=parse_weights(options.weights_by or []),
    )
    record = merge_files(plan, options.out, finding=Finding(hub_name=options.push_to_hub))
    for group, coefficients in list(record["coefficients"].items())[:20]:
        print(f"{group}: " + ", ".join(f"{name} {c:.4f}" for name, c in coefficients.items()))
