"""The files beside a model's weights: which part of the model's identity each of their keys belongs to.

A key that is not listed counts, in the file's own part: no version's new setting is overlooked.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from modules.checkpoints.base_model import file_sha256
from modules.checkpoints.st_folder import pooling_modes
from modules.json_files import json_sha256, read_json

PARTS = ("tokenizer", "pipeline", "prompts", "length")

NO_LIMIT = 10**9
"""Transformers writes 1e30 where a tokenizer has no longest text."""


class Rule(NamedTuple):
    """What the keys of a file belong to.

    Args:
        part: that of all others.
        elsewhere: key to another part.
        ignored: keys that change nothing of what a model computes or learns, such as where it was saved.
        defaults: key to the value that is as good as none, because some versions write it and others do not.
    """

    part: str
    elsewhere: Mapping[str, str] = {}
    ignored: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = {}


TOKENIZER_FILE = Rule("tokenizer")

RULES = {
    "modules.json": Rule("pipeline"),
    "config_sentence_transformers.json": Rule(
        "pipeline",
        {"prompts": "prompts", "default_prompt_name": "prompts", "truncate_dim": "length"},
        frozenset({"__version__"}),
        {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
    ),
    r"sentence_[\w-]+_config\.json": Rule(
        "pipeline",
        {"max_seq_length": "length"},
        defaults={
            "do_lower_case": False,
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        },
    ),
    # the backbone's; null is not always the default of a class
    r"config\.json": Rule(
        "pipeline",
        ignored=frozenset({"transformers_version", "_name_or_path", "_commit_hash", "use_cache"}),
        defaults={"gradient_checkpointing": False},
    ),
    # other modules'
    r".+/config\.json": Rule(
        "pipeline",
        defaults={
            "include_prompt": True,
            "module_input_name": "sentence_embedding",
            "module_output_name": "sentence_embedding",
        },
    ),
    # padding is masked
    r"(.+/)?tokenizer\.json": Rule("tokenizer", {"truncation": "length"}, frozenset({"padding"})),
    r"(.+/)?tokenizer_config\.json": Rule(
        "tokenizer",
        dict.fromkeys(("model_max_length", "max_length", "stride", "truncation_strategy"), "length"),
        frozenset({"name_or_path", "tokenizer_file", "special_tokens_map_file", "is_local", "local_files_only"}),
    ),
    r"(.+/)?(special_tokens_map|added_tokens|vocab)\.json": TOKENIZER_FILE,
    r"(.+/)?(vocab\.txt|merges\.txt|[^/]+\.model|chat_template\.jinja)": TOKENIZER_FILE,
}
"""By place: a file's path in its module, and before it the folder of every module but the first."""


def rule_of(place: str) -> Rule | None:
    """Return the rule for a file; None where it is not known."""
    return next((rule for pattern, rule in RULES.items() if re.fullmatch(pattern, place)), None)


def settings_hashes(place: str, file: Path) -> dict[str, str]:
    """Return the sha256 of what a file says, by part; a part of which it says nothing is absent.

    A process reads a file once, until its size or time changes.

    Args:
        place: of the file, with a rule; see `RULES`.
        file: its path.

    Raises:
        UserError: it should be JSON, and is not.
    """
    if file.suffix != ".json":
        return {TOKENIZER_FILE.part: file_sha256(file)}
    stat = file.stat()
    return _settings_hashes(place, file.absolute(), stat.st_size, stat.st_mtime_ns)


@cache
def _settings_hashes(place: str, file: Path, size: int, changed: int) -> dict[str, str]:
    return {part: json_sha256(said) for part, said in _parts(place, read_json(file)).items()}


def _parts(place: str, content: Any) -> dict[str, Any]:
    rule = rule_of(place)
    assert rule is not None
    if place == "modules.json":
        return {rule.part: _modules(content)}
    if not isinstance(content, dict):
        return {rule.part: content}
    parts: dict[str, dict[str, Any]] = {}
    for key, value in _modern(place, content).items():
        if key not in rule.ignored and rule.defaults.get(key, ...) != value:
            parts.setdefault(rule.elsewhere.get(key, rule.part), {})[key] = value
    return parts


def _modern(place: str, content: dict[str, Any]) -> dict[str, Any]:
    """The content in the form of the newest versions."""
    if place == "config.json":
        dtype = content.get("torch_dtype", content.get("dtype"))
        return {key: value for key, value in content.items() if key != "torch_dtype"} | {"dtype": dtype}
    said = {key: value for key, value in content.items() if value is not None}
    if any(key.startswith("pooling_mode") for key in said):
        modes = [{"max_tokens": "max"}.get(mode, mode) for mode in pooling_modes(said)]
        said = {key: value for key, value in said.items() if not key.startswith("pooling_mode")}
        dim = said.pop("word_embedding_dimension", None)
        said |= {"pooling_mode": modes} | ({} if dim is None else {"embedding_dimension": dim})
    if said.get("model_max_length", 0) >= NO_LIMIT:
        del said["model_max_length"]
    if "prompts" in said and "default_prompt_name" not in said:
        # An empty prompt is there to be used in the place of the default.
        said["prompts"] = {name: text for name, text in said["prompts"].items() if text}
    return {key: value for key, value in said.items() if key != "prompts" or value}


def _modules(entries: Any) -> Any:
    """The list of modules without what depends on the version: numbers, names, where a library keeps its classes."""
    return [
        {key: value for key, value in entry.items() if key not in ("idx", "name", "path")}
        | {"type": re.sub(r"^sentence_transformers\..*\.", "", entry["type"]), "path": entry["path"] if i else ""}
        for i, entry in enumerate(entries)
    ]
