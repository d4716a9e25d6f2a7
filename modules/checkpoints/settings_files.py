"""The files beside a model's weights, and the part of the model's identity that each of their keys belongs to.

A key that is not listed counts, in the file's own part: no version's new setting is overlooked.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from modules.checkpoints.base_model import file_sha256
from modules.checkpoints.portable import SAID_BY_DEFAULT
from modules.checkpoints.st_folder import pooling_modes
from modules.checkpoints.text_settings import NO_LIMIT
from modules.errors import UserError
from modules.json_files import json_sha256, read_json

PARTS = ("tokenizer", "pipeline", "prompts", "length")


class Rule(NamedTuple):
    """The parts of a model's identity that the keys of a file belong to.

    Args:
        part: of all keys that are not listed.
        elsewhere: key to another part.
        ignored: keys that change nothing that a model computes or learns, such as where it was saved.
        defaults: key to the value that counts as absent, because some versions write it and others do not.
        modern: brings the content into the form of the newest versions.
    """

    part: str
    elsewhere: Mapping[str, str] = {}
    ignored: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = {}
    modern: Callable[[Any], Any] = lambda content: content


def _modules(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the modules without their numbers, names, and their classes' places in the library."""
    return [
        {key: value for key, value in entry.items() if key not in ("idx", "name", "path")}
        | {"type": re.sub(r"^sentence_transformers\..*\.", "", entry["type"]), "path": entry["path"] if i else ""}
        for i, entry in enumerate(entries)
    ]


def _backbone(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with one name of the dtype; null stays, because it is not every class's default."""
    dtype = config.get("torch_dtype", config.get("dtype"))
    return {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": dtype}


def _said(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if value is not None}


def _module(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config, with the names of pooling modes in the place of a flag per mode."""
    said = _said(config)
    if not any(key.startswith("pooling_mode") for key in said):
        return said
    modes = pooling_modes(said)
    others = {key: value for key, value in said.items() if not key.startswith("pooling_mode")}
    dim = others.pop("word_embedding_dimension", others.get("embedding_dimension"))
    return others | {"pooling_mode": modes, "embedding_dimension": dim}


def _general(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without empty prompts, unless there is a default prompt, in whose place they are used."""
    said = _said(settings)
    prompts = said.pop("prompts", {})
    if "default_prompt_name" not in said:
        prompts = {name: text for name, text in prompts.items() if text}
    return said | ({"prompts": prompts} if prompts else {})


def _tokenizer(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config without a longest text that is no limit."""
    return {key: v for key, v in _said(config).items() if key != "model_max_length" or v < NO_LIMIT}


BYTES_OF_TOKENIZER = Rule("tokenizer")
"""The rule of files that are not parsed, because some have millions of entries: every byte counts."""

RULES = {
    r"modules\.json": Rule("pipeline", modern=_modules),
    r"config_sentence_transformers\.json": Rule(
        "pipeline",
        {"prompts": "prompts", "default_prompt_name": "prompts", "truncate_dim": "length"},
        frozenset({"__version__"}),
        {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
        _general,
    ),
    r"sentence_[\w-]+_config\.json": Rule(
        "pipeline",
        {"max_seq_length": "length"},
        defaults={"do_lower_case": False, **SAID_BY_DEFAULT["Transformer"]},
        modern=_said,
    ),
    r"config\.json": Rule(
        "pipeline",
        ignored=frozenset({"transformers_version", "_name_or_path", "_commit_hash", "use_cache"}),
        defaults={"gradient_checkpointing": False},
        modern=_backbone,
    ),
    r".+/config\.json": Rule(
        "pipeline",
        defaults={"include_prompt": True, **SAID_BY_DEFAULT["Dense"]},
        modern=_module,
    ),
    r"(.+/)?tokenizer_config\.json": Rule(
        "tokenizer",
        dict.fromkeys(("model_max_length", "max_length", "stride", "truncation_strategy"), "length"),
        frozenset({"name_or_path", "tokenizer_file", "special_tokens_map_file", "is_local", "local_files_only"}),
        modern=_tokenizer,
    ),
    r"(.+/)?(tokenizer|special_tokens_map|added_tokens|vocab)\.json": BYTES_OF_TOKENIZER,
    r"(.+/)?(vocab\.txt|merges\.txt|[^/]+\.model|chat_template\.jinja)": BYTES_OF_TOKENIZER,
}
"""Pattern of a file's place to its rule; the place is the path in its module, after the folder of a later module."""


def rule_of(place: str) -> Rule | None:
    """Return the rule of a file by its place; None where the file is not known."""
    return next((rule for pattern, rule in RULES.items() if re.fullmatch(pattern, place)), None)


def settings_hashes(place: str, file: Path) -> dict[str, str]:
    """Return the sha256 of a file's keys by part of the identity; parts without keys are absent.

    Args:
        place: of the file, with a rule; see `RULES`.
        file: its path.

    Raises:
        UserError: the file should be JSON of a certain form, and is not.
    """
    rule = rule_of(place)
    assert rule is not None
    if rule is BYTES_OF_TOKENIZER:
        return {rule.part: file_sha256(file)}
    content = read_json(file)
    try:
        return {part: json_sha256(said) for part, said in _parts(rule, content).items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{file} does not hold what its name says; fetch or save the model again") from error


def _parts(rule: Rule, content: Any) -> dict[str, Any]:
    said = rule.modern(content)
    if isinstance(said, list):
        return {rule.part: said}
    parts: dict[str, dict[str, Any]] = {}
    for key, value in said.items():
        if key not in rule.ignored and rule.defaults.get(key, ...) != value:
            parts.setdefault(rule.elsewhere.get(key, rule.part), {})[key] = value
    return parts
