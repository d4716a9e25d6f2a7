"""The sentence-transformers folder layout: what a model folder says beside its weights.

A folder without ``modules.json`` is a plain transformers checkpoint: its pooling is the caller's to say.
Whatever this package would lose on the way (Dense modules, pooling modes we do not have, ...) is refused, because a
model that silently pools otherwise is worse than none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.encoding.pooling import POOLINGS
from modules.errors import UserError
from modules.json_files import path_within, read_json, write_json


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that turns hidden states into an embedding, the weights aside.

    Args:
        pooling: ``mean``, ``cls`` or ``lasttoken``.
        normalize: whether embeddings have length 1.
        max_length: tokens kept of a text, special tokens included; None: what the tokenizer says.
        prompts: name to prefix.
        default_prompt_name: the prompt used where none is named.
        similarity: the similarity function's sentence-transformers name.
    """

    pooling: str = "mean"
    normalize: bool = True
    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str | None = "cosine"


def is_st_folder(folder: Path) -> bool:
    """Whether the folder has the sentence-transformers layout."""
    return (folder / "modules.json").is_file()


def st_modules(folder: Path) -> list[tuple[str, Path]]:
    """Kind and folder of every module of a sentence-transformers model; none of a plain transformers one.

    Raises:
        UserError: a module lies outside the model's folder.
    """
    file = folder / "modules.json"
    return [(m["type"].rsplit(".", 1)[-1], path_within(folder, m["path"], file)) for m in read_json(file, [])]


def read_encoder_config(folder: Path) -> EncoderConfig:
    """Read the layout of a sentence-transformers folder.

    Raises:
        UserError: it has a part that this package does not carry.
    """
    kinds = st_modules(folder)
    names = [kind for kind, _ in kinds]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UserError(
            f"{folder}/modules.json: the modules {' > '.join(names)} are not supported; "
            "Transformer > Pooling [> Normalize] are"
        )
    transformer = read_json(kinds[0][1] / "sentence_bert_config.json", {})
    general = read_json(folder / "config_sentence_transformers.json", {})
    if general.get("truncate_dim"):
        raise UserError(f"{folder}: truncate_dim is set in config_sentence_transformers.json; remove it first")
    if transformer.get("do_lower_case"):
        raise UserError(f"{folder}: do_lower_case in sentence_bert_config.json is not supported; set it to false")
    prompts = {name: text for name, text in (general.get("prompts") or {}).items() if text}
    return EncoderConfig(
        pooling=_read_pooling(kinds[1][1] / "config.json", prompts),
        normalize="Normalize" in names,
        max_length=transformer.get("max_seq_length"),
        prompts=prompts,
        default_prompt_name=general.get("default_prompt_name"),
        similarity=general.get("similarity_fn_name") or "cosine",
    )


def write_encoder_config(folder: Path, config: EncoderConfig, dim: int) -> None:
    """Write the layout, in the form that every sentence-transformers since 2.2 reads.

    Args:
        folder: where the transformers checkpoint lies.
        config: what to write.
        dim: size of the token embeddings.
    """
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")] + [("Normalize", "2_Normalize")] * config.normalize
    _write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(modules)
        ],
    )
    modes = {f"pooling_mode_{'cls_token' if p == 'cls' else 'mean_tokens' if p == 'mean' else p}": p for p in POOLINGS}
    pooling = {key: mode == config.pooling for key, mode in modes.items()}
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": dim, **pooling})
    if config.normalize:
        (folder / "2_Normalize").mkdir(exist_ok=True)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": config.max_length, "do_lower_case": False})
    general = {
        "prompts": config.prompts,
        "default_prompt_name": config.default_prompt_name,
        "similarity_fn_name": config.similarity,
    }
    _write_json(folder / "config_sentence_transformers.json", general)


def _read_pooling(path: Path, prompts: dict[str, str]) -> str:
    """The one pooling mode of a Pooling module, in its old form (a flag a mode) or its new one (a name)."""
    config = _required(path)
    modes = pooling_modes(config)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise UserError(f"{path}: pooling {' + '.join(modes)} is not supported; one of {', '.join(POOLINGS)} is")
    if prompts and not config.get("include_prompt", True):
        raise UserError(f"{path}: include_prompt is false and the model has prompts, which is not supported")
    return modes[0]


def pooling_modes(config: Mapping[str, Any]) -> list[str]:
    """The modes of a Pooling module's config, in its old form (a flag a mode) or its new one (names)."""
    if "pooling_mode" in config:
        named = config["pooling_mode"]
        return [named] if isinstance(named, str) else list(named)
    flags = [key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on]
    return [{"cls_token": "cls", "mean_tokens": "mean"}.get(flag, flag) for flag in flags]


def _required(path: Path) -> Any:
    content = read_json(path)
    if content is None:
        raise UserError(f"{path} is missing")
    return content


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    write_json(path, content)
