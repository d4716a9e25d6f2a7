"""Settings of a saved model in the form that old and new libraries read alike, in any batch.

sentence-transformers 5.3 on transformers 4.57 and 6.2 on transformers 5 embed alike what is written so (`tests/older`).
Newer versions write keys that older ones refuse (a modality of texts, names of a Dense module's input) or pass over in
silence (``rope_parameters``).
"""

from pathlib import Path
from typing import Any

from modules.checkpoints.st_folder import (
    LEGACY,
    POOLING_FLAGS,
    backbone_folder,
    pooling_modes,
    st_modules,
    transformer_config_file,
)
from modules.checkpoints.text_settings import positions_after_padding
from modules.json_files import read_json, write_json

SAID_BY_DEFAULT: dict[str, dict[str, Any]] = {
    "Transformer": {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings",
    },
    "Dense": {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"},
}
"""Kind of module to keys of its config with their default values, which need not be written."""

COUNTED_FROM_THE_LEFT = ("gpt2", "gpt_neo", "gpt_bigcode", "openai-gpt", "opt", "xglm", "biogpt")
"""Types of decoders with absolute positions, which sentence-transformers counts through padding on the left."""

PER_KIND_OF_LAYER = {
    "modernbert": ("global_rope_theta", "local_rope_theta"),
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
}
"""Type of model to transformers 4's keys of the base of rotary positions, for full and for sliding attention."""


def make_portable(folder: Path) -> None:
    """Rewrite the settings of a saved model; settings without an older form stay as they are.

    Args:
        folder: of a transformers or a sentence-transformers model; its files are changed.
    """
    first = backbone_folder(folder)
    _change(first / "config.json", _with_older_rope)
    backbone = read_json(first / "config.json", {})
    kind, positions = backbone.get("model_type"), positions_after_padding(backbone)
    _change(first / "tokenizer_config.json", lambda config: _padded_alike(_with_older_class(config), kind))
    if positions is not None:
        _keep_within(positions, first)
    _change(
        folder / "modules.json", lambda modules: [module | {"type": _older_name(module["type"])} for module in modules]
    )
    for kind, path in st_modules(folder):
        if kind == "Pooling":
            _change(path / "config.json", _older_pooling)
        elif kind in SAID_BY_DEFAULT:
            file = transformer_config_file(path) if kind == "Transformer" else path / "config.json"
            _change(file, lambda config, kind=kind: without_defaults(config, kind))


def _change(file: Path, change: Any) -> None:
    content = read_json(file)
    if content is not None and (changed := change(content)) != content:
        write_json(file, changed)


def _older_name(name: str) -> str:
    return LEGACY + name.rsplit(".", 1)[-1] if name.startswith("sentence_transformers.") else name


def without_defaults(config: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a module's config without the keys that only newer versions write, where all have their defaults.

    Args:
        config: of the module.
        kind: of the module, ``Dense`` for one.
    """
    said = SAID_BY_DEFAULT.get(kind, {})
    same = all(config.get(key, value) == value for key, value in said.items())
    return {key: value for key, value in config.items() if key not in said} if same else config


def _older_pooling(config: dict[str, Any]) -> dict[str, Any]:
    renamed = {"word_embedding_dimension" if key == "embedding_dimension" else key: v for key, v in config.items()}
    modes = pooling_modes(renamed)
    flags = {flag: mode in modes for mode, flag in POOLING_FLAGS.items()}
    return {key: value for key, value in renamed.items() if key != "pooling_mode"} | flags


def _with_older_class(config: dict[str, Any]) -> dict[str, Any]:
    """Name the `PreTrainedTokenizerFast` of both for the class that transformers 5 gives a tokenizer of no other class.

    In transformers 4 it makes token types unless told not to, which some models do not take.
    """
    if config.get("tokenizer_class") != "TokenizersBackend":
        return config
    return (
        {"model_input_names": ["input_ids", "attention_mask"]} | config | {"tokenizer_class": "PreTrainedTokenizerFast"}
    )


def _padded_alike(config: dict[str, Any], model_type: str | None) -> dict[str, Any]:
    """Name a padding token, without which the library embeds no batch, and pad where it changes no embedding."""
    changes = {}
    if config.get("pad_token") is None and config.get("eos_token") is not None:
        changes["pad_token"] = config["eos_token"]
    if model_type in COUNTED_FROM_THE_LEFT and config.get("padding_side") == "left":
        changes["padding_side"] = "right"
    return config | changes


def _keep_within(positions: int, first: Path) -> None:
    """Cut texts to the model's positions, beyond which the library runs into an error."""

    def lowered(config: dict[str, Any]) -> dict[str, Any]:
        told = config.get("max_seq_length")
        return config | {"max_seq_length": min(told, positions)} if told else config

    _change(transformer_config_file(first), lowered)
    _change(
        first / "tokenizer_config.json",
        lambda config: config | {"model_max_length": min(config.get("model_max_length") or positions, positions)},
    )


def _with_older_rope(config: dict[str, Any]) -> dict[str, Any]:
    """Write the base and the scaling of rotary positions also under the keys of transformers 4."""
    rope = config.get("rope_parameters") or {}
    keys = PER_KIND_OF_LAYER.get(config.get("model_type", ""), ("rope_theta",))
    kinds = [rope.get("full_attention"), rope.get("sliding_attention")] if len(keys) > 1 else [rope]
    older: dict[str, Any] = {}
    for key, one in zip(keys, kinds, strict=True):
        if one and "rope_theta" in one:
            older[key] = one["rope_theta"]
    full = kinds[0] or {}
    if full.get("rope_type", "default") != "default":
        older["rope_scaling"] = {key: value for key, value in full.items() if key != "rope_theta"}
    return config | {key: value for key, value in older.items() if config.get(key) is None}
