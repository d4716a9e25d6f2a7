"""The settings of how a model reads texts that are the user's to choose, as model folders have them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.checkpoints.st_folder import backbone_folder, st_modules, transformer_config_file
from modules.json_files import read_json

Settings = dict[str, Any]
"""``max_length``, ``prompts``, ``default_prompt_name`` and ``truncate_dim``."""

NO_LIMIT = 10**9
"""Number of tokens from which a limit is none; transformers writes 1e30 where a tokenizer has no limit."""


POSITIONS_FROM_PADDING = re.compile(
    r".*roberta.*|camembert|data2vec-text|esm|ibert|lilt|longformer|luke|markuplm|mpnet|xmod"
)
"""Types of models that count positions from the padding token's id, which changes nothing in other models."""


@dataclass(frozen=True)
class Pipeline:
    """The modules and settings around the weights of a merged model.

    Args:
        folder: of the model whose sentence-transformers modules are taken.
        settings: of how texts are read.
    """

    folder: Path
    settings: Settings


def text_settings(folder: Path, base: Path) -> Settings:
    """Return the number of tokens kept of a text, the prompts, and the number of entries kept of an embedding.

    Args:
        folder: of a model, or of an adapter, which has no config of its own.
        base: folder of theta_0, whose config an adapter has.
    """
    general = read_json(folder / "config_sentence_transformers.json", {})
    return {
        "max_length": _longest(folder, base),
        "prompts": {name: text for name, text in (general.get("prompts") or {}).items() if text},
        "default_prompt_name": general.get("default_prompt_name"),
        "truncate_dim": general.get("truncate_dim"),
    }


def module_folder(folder: Path, kind: str, otherwise: str) -> Path:
    """Return the folder of a model's module of a kind; `otherwise` within the model's folder where it lists none."""
    return dict(st_modules(folder)).get(kind, folder / otherwise)


def transformer_config(folder: Path) -> dict[str, Any]:
    """Return the settings of a sentence-transformers folder's Transformer module; empty where it has no such file."""
    found: dict[str, Any] = read_json(transformer_config_file(module_folder(folder, "Transformer", "")), {})
    return found


def _longest(folder: Path, base: Path) -> int | None:
    part = backbone_folder(folder)
    config = read_json(part / "config.json") or read_json(backbone_folder(base) / "config.json", {})
    told = transformer_config(folder).get("max_seq_length")
    positions = positions_after_padding(config)
    if positions is None and not told:  # sentence-transformers takes a length that it is told as it is
        positions = config.get("max_position_embeddings")
    limits = (told or read_json(part / "tokenizer_config.json", {}).get("model_max_length"), positions)
    return min((int(limit) for limit in limits if limit and limit < NO_LIMIT), default=None)


def positions_after_padding(config: dict[str, Any]) -> int | None:
    """Return the number of tokens with a position, where positions are counted from the padding token's id.

    The config includes the places up to that id (514 for 512 tokens), which sentence-transformers takes for tokens.

    Args:
        config: of the backbone.

    Returns:
        The number; None where positions are counted from 0, or the model has no table of them.
    """
    places, kind = config.get("max_position_embeddings"), config.get("position_embedding_type", "absolute")
    if not places or kind != "absolute" or not POSITIONS_FROM_PADDING.fullmatch(str(config.get("model_type"))):
        return None
    padding = config.get("pad_token_id")
    return int(places) - (1 if padding is None else int(padding)) - 1
