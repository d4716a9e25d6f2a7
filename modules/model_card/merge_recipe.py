"""A merge as a YAML file that ``python -m lightning_app merge --config FILE`` reads, with names in place of paths."""

from collections.abc import Mapping
from typing import Any

import yaml

from modules.checkpoints.base_model import shown_name
from modules.merging.merge_method import METHODS

AS_IN_THE_BASE = "as in the base"
"""The dtype of a record where none was asked for."""

COLLECTED = "rows"
"""An argument of methods that says how statistics are collected, which a merge on disk only reads."""


def merge_recipe(record: Mapping[str, Any]) -> str:
    """Return the options of a merge, in YAML.

    Args:
        record: the content of ``merge.json``.
    """
    keys: dict[str, Any] = {
        **_method_options(record["method"]),
        "base": shown_name(record["base"]["path"]),
        "experts": [shown_name(expert["path"]) for expert in record["experts"].values()],
        "granularity": record["granularity"],
        **(_learning_options(record["learned"]) if "learned" in record else _given_position(record)),
    }
    if "settings_of" in record:
        keys["settings_of"] = record["settings_of"]
    if record["dtype"] != AS_IN_THE_BASE:
        keys["dtype"] = record["dtype"]
    if "adapter" in record:
        keys["adapter_rank"] = record["adapter"]["rank"]
    return yaml.safe_dump(keys, sort_keys=False, allow_unicode=True, default_flow_style=None)


def _method_options(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that make a method, and the method under it."""
    kind = description["class"].rpartition(".")[2]
    own = {key: value for key, value in description["arguments"].items() if value is not None and key != COLLECTED}
    inner = own.pop("method", None)
    options = {"method": next((name for name, known in METHODS.items() if known.__name__ == kind), kind)}
    if inner is not None:
        under = _method_options(inner)
        options = {**options, "inner": under.pop("method"), **under}
    return options | own


def _given_position(record: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"coefficients": list(record["a"].values()), "scale": record["scale"]}
    by = record.get("weights_by", {})
    if by:
        options["weights_by"] = [f"{expression}={','.join(map(str, row))}" for expression, row in by.items()]
    return options


def _learning_options(learned: Mapping[str, Any]) -> dict[str, Any]:
    search = learned["search"]["class"].rpartition(".")[2]
    options = {"learn": list(learned["rows"]), "search": _snake(search), "signed": learned["signed"]}
    if "mteb" in learned:
        options["tasks"] = list(next(iter(learned["mteb"].values())))
    return options


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
