"""What is a user's to choose of how a model reads texts, and where it says so."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.checkpoints.st_folder import st_modules
from modules.json_files import read_json

Settings = dict[str, Any]

NO_LIMIT = 10**9
"""Transformers writes 1e30 where a tokenizer has no longest text."""


@dataclass(frozen=True)
class Pipeline:
    """What stands around the weights of a merged model.

    Args:
        folder: of the model whose sentence-transformers modules are taken.
        settings: ``max_length``, ``prompts``, ``default_prompt_name`` and ``truncate_dim``, see `text_settings`.
    """

    folder: Path
    settings: Settings


def text_settings(folder: Path, base: Path) -> Settings:
    """What is the user's to choose: how many tokens of a text are kept, prompts, how many numbers of an embedding.

    Args:
        folder: of a model, or of an adapter, which has no config of its own.
        base: folder of theta_0, whose config an adapter has.
    """
    transformer = transformer_config(folder, st_modules(folder))
    general = read_json(folder / "config_sentence_transformers.json", {})
    return {
        "max_length": transformer.get("max_seq_length") or _longest(folder, base),
        "prompts": {name: text for name, text in (general.get("prompts") or {}).items() if text},
        "default_prompt_name": general.get("default_prompt_name"),
        "truncate_dim": general.get("truncate_dim"),
    }


def module_folder(folder: Path, modules: list[tuple[str, Path]], kind: str, otherwise: str) -> Path:
    """Return the folder of a model's module of a kind, or `otherwise` within the model's where it lists none."""
    return dict(modules).get(kind, folder / otherwise)


def transformer_config(folder: Path, modules: list[tuple[str, Path]]) -> dict[str, Any]:
    """Return what a sentence-transformers folder says of its Transformer module; nothing if it says nothing."""
    found: dict[str, Any] = read_json(
        module_folder(folder, modules, "Transformer", "") / "sentence_bert_config.json", {}
    )
    return found


def _longest(folder: Path, base: Path) -> int | None:
    config = read_json(folder / "config.json") or read_json(base / "config.json", {})
    limits = (
        read_json(folder / "tokenizer_config.json", {}).get("model_max_length"),
        config.get("max_position_embeddings"),
    )
    return min((int(limit) for limit in limits if limit and limit < NO_LIMIT), default=None)
