"""The files beside the weights, copied to a model that is made of others."""

import re
import shutil
from pathlib import Path
from typing import Any

from modules.checkpoints.lineage import FILE as LINEAGE
from modules.checkpoints.portable import make_portable
from modules.checkpoints.st_folder import (
    TRANSFORMER_CONFIGS,
    backbone_folder,
    is_st_folder,
    st_modules,
    transformer_config_file,
)
from modules.checkpoints.text_settings import NO_LIMIT, Pipeline, Settings, text_settings
from modules.json_files import read_json, write_json

WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|pkl|pickle|h5|msgpack|onnx|ot|gguf|npz)$|.*\.safetensors\.index\.json$"
)
OF_ANOTHER_MODEL = ("README.md", "merge.json", "adapter_config.json", LINEAGE)
"""Files that are about the model that they lie beside, not about a model made of it."""


def copy_settings(base: Path, pipeline: Pipeline, out: Path, dtype: str | None) -> list[str]:
    """Copy tokenizer, config, modules, prompts and the model's own code; no weights, and no pickles.

    Args:
        base: folder of theta_0.
        pipeline: the folder of the sentence-transformers modules that are taken, and the settings of texts.
        out: an existing folder.
        dtype: of all weights written, for ``config.json``; None: as in the base.

    Returns:
        The paths of the code files in `out`.
    """
    _copy_files(base, out)
    first = backbone_folder(base).relative_to(base)
    if backbone_folder(base) != base:
        _copy_files(base / first, out / first)
    if pipeline.folder != base:
        _copy_pipeline(pipeline.folder, out, first)
    for _, path in st_modules(pipeline.folder)[1:]:
        _copy_files(path, out / path.relative_to(pipeline.folder))
    make_portable(out)
    if is_st_folder(out) and _differ(pipeline.settings, text_settings(pipeline.folder, base)):
        write_text_settings(out, pipeline.settings)
    dtypes = {key: dtype for key in ("dtype", "torch_dtype") if dtype}
    change_json(backbone_folder(out) / "config.json", dtypes, only_known=True)
    return sorted(str(file.relative_to(out)) for file in out.rglob("*.py"))


def _differ(settings: Settings, others: Settings) -> bool:
    """Return whether settings of texts differ, empty prompts aside."""
    filled = {name: text for name, text in settings["prompts"].items() if text}
    return settings | {"prompts": filled} != others


def write_text_settings(folder: Path, settings: Settings) -> None:
    """Replace the settings of texts of a saved model, wherever a version of sentence-transformers looks for them.

    Args:
        folder: of a sentence-transformers model.
        settings: see `text_settings`.
    """
    kind, path = st_modules(folder)[0]
    limit = settings["max_length"]
    if kind == "Transformer" and limit is not None and limit < NO_LIMIT:
        change_json(transformer_config_file(path), {"max_seq_length": limit})
        change_json(path / "tokenizer_config.json", {"model_max_length": limit})
    general = {key: settings[key] for key in ("prompts", "default_prompt_name", "truncate_dim")}
    change_json(folder / "config_sentence_transformers.json", general)


def change_json(file: Path, values: dict[str, Any], only_known: bool = False) -> None:
    """Change keys of a JSON file.

    Args:
        file: made if absent.
        values: key to its new value.
        only_known: leave out keys that the file does not have.
    """
    content = read_json(file, {})
    changed = {key: value for key, value in values.items() if not only_known or key in content}
    if changed:
        write_json(file, content | changed)


def _copy_pipeline(folder: Path, out: Path, first: Path) -> None:
    """Copy another model's settings of texts and its list of modules, whose first module lies where the base's does.

    Args:
        folder: of the other model.
        out: has the base's settings.
        first: of the base's transformers checkpoint, relative to its folder.
    """
    for name in ("tokenizer_config.json", *TRANSFORMER_CONFIGS):
        _copy(backbone_folder(folder) / name, out / first)
    _copy(folder / "config_sentence_transformers.json", out)
    modules = read_json(folder / "modules.json")
    write_json(out / "modules.json", [modules[0] | {"path": "" if first == Path() else str(first)}, *modules[1:]])


def _copy_files(folder: Path, out: Path) -> None:
    out.mkdir(exist_ok=True)
    for file in folder.glob("*"):  # a module without settings may have no folder
        _copy(file, out)


def _copy(file: Path, folder: Path) -> None:
    hidden = file.name.startswith(".")
    if file.is_file() and not hidden and file.name not in OF_ANOTHER_MODEL and not WEIGHTS.match(file.name):
        shutil.copyfile(file, folder / file.name)
