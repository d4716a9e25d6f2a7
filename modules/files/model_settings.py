"""What a model folder says beside its weights: compared between models, and carried to a merged one.

Files are compared as they are, without building a model, so that modules which the rest of the package cannot compute
(Dense) are merged all the same.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.errors import UserError
from modules.json_files import read_json
from modules.lineage import FILE as LINEAGE
from modules.safety import ARCHITECTURE
from modules.st_folder import pooling_modes

VOCABULARY_FILES = ("vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")

LIMITS = ("tokenizer_config.json",)
"""Where newer versions of sentence-transformers keep the longest text."""

NO_LIMIT = 10**9
"""Transformers writes 1e30 where a tokenizer has no longest text."""

WEIGHTS_AND_CODE = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|pkl|pickle|h5|msgpack|onnx|ot|gguf|npz|py)$|.*\.safetensors\.index\.json$"
)
OF_ANOTHER_MODEL = ("README.md", "merge.json", "adapter_config.json", LINEAGE)
"""Files that are about the model they lie beside, so not about a merge of it."""


def refuse_other_model(base: Path, layout: Path, expert: Path, who: str) -> None:
    """Refuse an expert that is read differently than the base.

    Args:
        base: folder of theta_0.
        layout: the folder whose sentence-transformers layout the merge takes.
        expert: folder compared with them; what it does not say is as in the base.
        who: how messages call the expert.

    Raises:
        UserError: its architecture, vocabulary, modules, pooling, prompts or longest text differ.
    """
    ours, theirs = read_json(base / "config.json", {}), read_json(expert / "config.json", {})
    for part in ARCHITECTURE:
        if part in ours and part in theirs and ours[part] != theirs[part]:
            raise UserError(
                f"{who} has {part} {theirs[part]!r}, the base {ours[part]!r}; merge models of one architecture"
            )
    _refuse_other_vocabulary(base, expert, who)
    if (expert / "modules.json").is_file():
        standard, other = st_settings(layout), st_settings(expert)
        for part, value in standard.items():
            if other.get(part) != value:
                raise UserError(f"{who} has {part} {other.get(part)!r}, the base {value!r}; they must agree")


def st_settings(folder: Path) -> dict[str, Any]:
    """What turns hidden states into an embedding, in a form that does not depend on the version that saved it."""
    modules = [(m["type"].rsplit(".", 1)[-1], m["path"]) for m in read_json(folder / "modules.json", [])]
    paths = dict(modules)
    transformer = read_json(folder / paths.get("Transformer", "") / "sentence_bert_config.json", {})
    general = read_json(folder / "config_sentence_transformers.json", {})
    pooling = read_json(folder / paths.get("Pooling", "1_Pooling") / "config.json", {})
    settings = {
        "modules": " > ".join(kind for kind, _ in modules),
        "pooling": [{"max_tokens": "max"}.get(mode, mode) for mode in pooling_modes(pooling)],
        "include_prompt": pooling.get("include_prompt", True),
        "max_length": transformer.get("max_seq_length") or _longest(folder),
        "do_lower_case": bool(transformer.get("do_lower_case")),
        "prompts": {name: text for name, text in (general.get("prompts") or {}).items() if text},
        "default_prompt_name": general.get("default_prompt_name"),
    }
    others = [path for kind, path in modules if kind not in ("Transformer", "Pooling", "Normalize")]
    return settings | {f"{path}/config.json": read_json(folder / path / "config.json", {}) for path in others}


def _longest(folder: Path) -> int | None:
    limits = (
        read_json(folder / "tokenizer_config.json", {}).get("model_max_length"),
        read_json(folder / "config.json", {}).get("max_position_embeddings"),
    )
    return min((int(limit) for limit in limits if limit and limit < NO_LIMIT), default=None)


def _refuse_other_vocabulary(base: Path, expert: Path, who: str) -> None:
    ours, theirs = read_vocabulary(base), read_vocabulary(expert)
    if ours is not None and theirs is not None:
        if ours != theirs:
            raise UserError(f"{who} has another vocabulary: {_first_difference(ours, theirs)}; share a tokenizer")
        return
    for name in VOCABULARY_FILES:
        files = base / name, expert / name
        if all(file.is_file() for file in files) and files[0].read_bytes() != files[1].read_bytes():
            raise UserError(f"{who} has another vocabulary: {name} differs; merge models that share a tokenizer")


def read_vocabulary(folder: Path) -> dict[str, int] | None:
    """Token to id, from ``tokenizer.json`` or ``vocab.txt``; None where there is neither."""
    if (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer  # here, because few merges need to wait for it

        return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
    if (folder / "vocab.txt").is_file():
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        return {token: i for i, token in enumerate(lines) if token}
    return None


def _first_difference(ours: Mapping[str, int], theirs: Mapping[str, int]) -> str:
    places = {token: (ours.get(token, NO_LIMIT), theirs.get(token, NO_LIMIT)) for token in ours.keys() | theirs.keys()}
    tokens = sorted(places, key=lambda token: (min(places[token]), places[token]))
    token = next(token for token in tokens if ours.get(token) != theirs.get(token))
    return f"token {token!r} is {theirs.get(token, 'not there')}, in the base {ours.get(token, 'not there')}"


def copy_settings(base: Path, layout: Path, out: Path, dtype: str | None) -> None:
    """Copy what stands beside the weights: tokenizer, config, pooling, prompts; no pickles and no code.

    Args:
        base: folder of theta_0.
        layout: the folder whose sentence-transformers layout is taken.
        out: an existing folder.
        dtype: of all weights written, for ``config.json``; None: as in the base.
    """
    for file in base.iterdir():
        _copy(file, out)
    if layout != base:
        for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", *LIMITS):
            if (layout / name).is_file():
                _copy(layout / name, out)
    for module in read_json(layout / "modules.json", []):
        (out / module["path"]).mkdir(exist_ok=True)
        for file in (layout / module["path"]).glob("*") if module["path"] else ():
            _copy(file, out / module["path"])
    config = read_json(out / "config.json", {})
    changed = {key: dtype for key in ("dtype", "torch_dtype") if dtype and key in config}
    if changed:
        (out / "config.json").write_text(json.dumps(config | changed, indent=2) + "\n", encoding="utf-8")


def _copy(file: Path, folder: Path) -> None:
    hidden = file.name.startswith(".")
    if file.is_file() and not hidden and file.name not in OF_ANOTHER_MODEL and not WEIGHTS_AND_CODE.match(file.name):
        shutil.copyfile(file, folder / file.name)
