"""What stands beside the weights, carried to a merged model.

Files are copied as they are, so that modules which the rest of the package cannot compute (Dense) are merged too.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from modules.checkpoints.lineage import FILE as LINEAGE
from modules.checkpoints.st_folder import is_st_folder, st_modules
from modules.checkpoints.text_settings import Pipeline, text_settings
from modules.json_files import read_json, write_json

LIMITS = ("tokenizer_config.json",)
"""Where newer versions of sentence-transformers keep the longest text."""

WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|pkl|pickle|h5|msgpack|onnx|ot|gguf|npz)$|.*\.safetensors\.index\.json$"
)
OF_ANOTHER_MODEL = ("README.md", "merge.json", "adapter_config.json", LINEAGE)
"""Files that are about the model they lie beside, so not about a merge of it."""


def copy_settings(base: Path, pipeline: Pipeline, out: Path, dtype: str | None) -> list[str]:
    """Copy tokenizer, config, pooling, prompts and the model's own code; no pickles.

    Args:
        base: folder of theta_0.
        pipeline: whose sentence-transformers layout, and which settings, are taken.
        out: an existing folder.
        dtype: of all weights written, for ``config.json``; None: as in the base.

    Returns:
        The files of code among them.
    """
    layout = pipeline.folder
    for file in base.iterdir():
        _copy(file, out)
    if layout != base:
        for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", *LIMITS):
            if (layout / name).is_file():
                _copy(layout / name, out)
    for _, path in st_modules(layout):
        target = out / path.relative_to(layout)
        target.mkdir(exist_ok=True)
        for file in path.glob("*") if path != layout else ():
            _copy(file, target)
    if is_st_folder(layout) and pipeline.settings != text_settings(layout, base):
        _write_settings(out, pipeline.settings)
    _change(out / "config.json", {key: dtype for key in ("dtype", "torch_dtype") if dtype}, only_known=True)
    return sorted(str(file.relative_to(out)) for file in out.rglob("*.py"))


def _write_settings(out: Path, settings: dict[str, Any]) -> None:
    """Replace those of the copied files, wherever a version of sentence-transformers looks for them."""
    transformer = dict(st_modules(out)).get("Transformer", out)
    _change(transformer / "sentence_bert_config.json", {"max_seq_length": settings["max_length"]})
    _change(out / "tokenizer_config.json", {"model_max_length": settings["max_length"]}, only_known=True)
    general = {key: settings[key] for key in ("prompts", "default_prompt_name", "truncate_dim")}
    _change(out / "config_sentence_transformers.json", general)


def _change(file: Path, values: dict[str, Any], only_known: bool = False) -> None:
    """Change keys of a JSON file; `only_known`: those that it has."""
    content = read_json(file, {})
    changed = {key: value for key, value in values.items() if not only_known or key in content}
    if changed:
        write_json(file, content | changed)


def _copy(file: Path, folder: Path) -> None:
    hidden = file.name.startswith(".")
    if file.is_file() and not hidden and file.name not in OF_ANOTHER_MODEL and not WEIGHTS.match(file.name):
        shutil.copyfile(file, folder / file.name)
