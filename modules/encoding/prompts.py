"""Prompts (instruction prefixes): the prefixes that a model puts before texts, as sentence-transformers adds them.

A model names its prompts, and may name one of them as its default. `encode_query` adds the prompt ``query``,
`encode_document` the prompt ``document``, `encode` the default. A model's folder always has the first two: where it
does not name them they are empty, so that neither falls back to the default.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.text_settings import text_settings

Side = Literal["query", "document", "text"]
"""The role of a text: a query, a document, or any other text."""

SidePrompts = Mapping[Side, str]
"""The prefix of each side."""

DEFAULT = "default"
"""Name of a default prompt that a model has from its training."""


def named_prompts(prompts: Mapping[str, str]) -> dict[str, str]:
    """Return all prompts of a model by name: those that its folder names, ``query`` and ``document``."""
    return {"query": "", "document": ""} | dict(prompts)


def prompts_by_side(prompts: Mapping[str, str], default_name: str | None) -> dict[Side, str]:
    """Return the prefixes that `encode_query`, `encode_document` and `encode` of a model add.

    Args:
        prompts: name to prefix, as the model's folder has them.
        default_name: name of the default prompt; None: there is no default.
    """
    named = named_prompts(prompts)
    return {"query": named["query"], "document": named["document"], "text": named.get(default_name or "", "")}


def folder_prompts(model: str | Path) -> tuple[dict[str, str], str | None]:
    """Return the prompts of a model by name, and the name of its default prompt.

    Args:
        model: a folder or a hub name.
    """
    folder = find_base_model(str(model))
    settings = text_settings(folder, folder)
    return settings["prompts"], settings["default_prompt_name"]


def trained_prompts(
    prompts: Mapping[str, str], default_name: str | None, data: Mapping[str, Mapping[Side, str | None]]
) -> tuple[dict[str, str], str | None, list[str]]:
    """Name the prompts that a model is trained with, so that it adds by itself the prefixes of its training.

    A side on which all data sets have the same prefix gets it. Where they differ, the model's own prefix stays, and
    each data set has its prefix under its name: ``<data set>-query``, ``<data set>-document`` or ``<data set>``.

    Args:
        prompts: of the model before training, by name.
        default_name: name of its default prompt.
        data: data set to the prefix of each side that it has texts of; None: each row has its own prefix, which gets
            no name.

    Returns:
        The prompts by name, the name of the default prompt, and a line for every side on which data sets differ.
    """
    named, default, lines = dict(prompts), default_name, []
    for side, own in prompts_by_side(prompts, default_name).items():
        found = {name: prefix for name, sides in data.items() if (prefix := sides.get(side)) is not None}
        distinct = set(found.values())
        if len(distinct) > 1:
            special = {name if side == "text" else f"{name}-{side}": prefix for name, prefix in found.items()}
            named |= special
            lines.append(
                f"prompts: data sets differ in that of a {side}, which stays {own!r}; what they are trained with is "
                f"saved as {', '.join(special)}: name one of these with prompt_name"
            )
        elif distinct - {own}:
            (common,) = distinct
            named[DEFAULT if side == "text" else side] = common
            if side == "text":
                default = DEFAULT if common else None  # an empty default is none
    return named, default, lines


def describe_prompts(prompts: Mapping[Any, str | None]) -> str:
    """Return the prefixes of texts in words.

    Args:
        prompts: side, or another name of the texts, to their prefix; None: each row has its own.
    """
    if not any(prompt is None or prompt for prompt in prompts.values()):
        return "no prompt"
    said = {name: "that of its row" if prompt is None else repr(prompt) for name, prompt in prompts.items()}
    return ", ".join(f"{name} {prompt}" for name, prompt in said.items())
