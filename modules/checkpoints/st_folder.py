"""The sentence-transformers folder layout: the modules of a model, and the places of their files.

A folder without ``modules.json`` is a plain transformers checkpoint.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.errors import UserError
from modules.json_files import path_within, read_json, write_json

LEGACY = "sentence_transformers.models."
"""Python package under which every sentence-transformers since 2.2 finds the classes of modules."""

TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names of the file of a Transformer module's settings, in the order in which sentence-transformers looks for them."""

POOLING_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Pooling mode to its key in the configs of sentence-transformers before 5.4, in the order of concatenation."""


def is_st_folder(folder: Path) -> bool:
    """Return whether the folder has the sentence-transformers layout."""
    return (folder / "modules.json").is_file()


def st_modules(folder: Path) -> list[tuple[str, Path]]:
    """Return kind and folder of every module of a sentence-transformers model; empty for a transformers checkpoint.

    Raises:
        UserError: a module lies outside the model's folder, or ``modules.json`` is no list of modules.
    """
    file = folder / "modules.json"
    if not file.is_file():
        return []
    try:
        listed = [(module["type"].rsplit(".", 1)[-1], module["path"]) for module in read_json(file)]
        listed[0]
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        raise UserError(f"{file} is no list of modules with type and path; fetch or save the model again") from error
    return [(kind, path_within(folder, path, file)) for kind, path in listed]


def backbone_folder(folder: Path) -> Path:
    """Return the first module's folder, with config, weights and tokenizer: `folder`, or a folder within it."""
    modules = st_modules(folder)
    return modules[0][1] if modules else folder


def transformer_config_file(folder: Path) -> Path:
    """Return the file of a Transformer module's settings; where there is no such file, the path to write.

    Args:
        folder: of the module.
    """
    files = [folder / name for name in TRANSFORMER_CONFIGS]
    return next((file for file in files if file.is_file()), files[0])


def pooling_modes(config: Mapping[str, Any]) -> list[str]:
    """Return the modes of a Pooling module's config, in its old form (a flag per mode) or its new form (names)."""
    if "pooling_mode" in config:
        named = config["pooling_mode"]
        return [named] if isinstance(named, str) else list(named)
    modes = {flag: mode for mode, flag in POOLING_FLAGS.items()}
    flags = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    return [modes.get(flag, flag.removeprefix("pooling_mode_")) for flag in flags]


def write_pipeline(folder: Path, modes: list[str], dim: int) -> None:
    """Make a transformers folder a sentence-transformers folder with a pooling, as every version since 2.2 reads it.

    Args:
        folder: of the transformers checkpoint.
        modes: of the pooling.
        dim: size of the token embeddings.
    """
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling")]
    listed = [{"idx": i, "name": str(i), "path": path, "type": LEGACY + kind} for i, (kind, path) in enumerate(kinds)]
    write_json(folder / "modules.json", listed)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    flags = {flag: mode in modes for mode, flag in POOLING_FLAGS.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": dim, **flags, "include_prompt": True})
