"""Differences between tokenizers by which two model folders make other tokens of a text."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.checkpoints.text_settings import transformer_config
from modules.errors import UserError
from modules.json_files import differences, read_json, shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PARTS = ("normalizer", "pre_tokenizer", "post_processor", "model")
"""Parts of ``tokenizer.json`` that are compared. The decoder makes no tokens, padding is masked, and truncation is a
setting of the model."""

FLAGS = {
    "do_lower_case": None,
    "strip_accents": None,
    "tokenize_chinese_chars": None,
    "do_basic_tokenize": None,
    "never_split": None,
    "keep_accents": None,
    "remove_space": None,
    "add_bos_token": None,
    "add_eos_token": None,
    "add_prefix_space": None,
    "legacy": None,
    "sp_model_kwargs": None,
    "split_special_tokens": False,
    "truncation_side": "right",
}
"""Keys of ``tokenizer_config.json`` that change the tokens of a text, and their defaults; None: the default of the
tokenizer's class."""

VOCABULARY_FILES = ("vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")

NOWHERE = 10**9


def tokenizer_difference(base: Path, other: Path) -> str | None:
    """Return the first difference between the tokenizers of two folders.

    Args:
        base: folder of the base.
        other: folder of the other model; settings that it does not have are as in the base.

    Returns:
        A clause for a message that begins with the name of the other; None where they agree.

    Raises:
        UserError: a ``tokenizer.json`` cannot be read.
    """
    files = _files(base), _files(other)
    if files[0] == files[1] or not all(map(any, files)):
        return None
    both_lower = reads_in_lower_case(base) and reads_in_lower_case(other)
    ours, theirs = _as_stored(base, both_lower), _as_stored(other, both_lower)
    vocabularies = ours.pop("vocabulary"), theirs.pop("vocabulary")
    if None not in vocabularies and vocabularies[0] != vocabularies[1]:
        return f"has another vocabulary: {_first_token(*vocabularies)}"
    for name in VOCABULARY_FILES if None in vocabularies else ():
        both = base / name, other / name
        if all(file.is_file() for file in both) and both[0].read_bytes() != both[1].read_bytes():
            return f"has another vocabulary: {name} differs"
    found = _difference(ours, theirs)
    if found is None and ours.keys() == theirs.keys():
        return None
    # A class adds settings that a folder lacks, and versions save a tokenizer in several forms: its made form counts.
    made = _as_made(base, both_lower), _as_made(other, both_lower)
    return _difference(*made) if None not in made else found  # type: ignore[arg-type]


def reads_in_lower_case(folder: Path) -> bool:
    """Return whether a model lower-cases every text, by its tokenizer or because its Transformer module says so."""
    return bool(transformer_config(folder).get("do_lower_case")) or _lower_cases(folder)


def _lower_cases(folder: Path) -> bool:
    """Return whether a folder's tokenizer lower-cases every text by itself."""
    flag = _flags(folder)["do_lower_case"]
    if flag is not None:
        return bool(flag)
    normalizer = _parts(_read_fast(folder))["normalizer"] if _is_fast(folder) else {}
    found = [normalizer or {}, *(normalizer or {}).get("normalizers", [])]
    return any(part.get("type") == "Lowercase" or part.get("lowercase") for part in found)


def _files(folder: Path) -> list[Any]:
    """Return the bytes of a tokenizer's files, and its flags; ``[None]`` where there is no file."""
    files = [folder / name for name in ("tokenizer.json", "vocab.txt", *VOCABULARY_FILES)]
    contents = [file.read_bytes() if file.is_file() else None for file in files]
    return [*contents, _flags(folder)] if any(contents) else [None]


def _flags(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "tokenizer_config.json", {})
    return {key: default if config.get(key) is None else config[key] for key, default in FLAGS.items()}


def _is_fast(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file()


def _read_fast(folder: Path) -> "Tokenizer":
    from tokenizers import Tokenizer  # here, because folders without such a file need not wait for it

    path = folder / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no kind of its own
        raise UserError(f"{path} is no tokenizer ({error}); fetch or save it again") from error


def _parts(tokenizer: "Tokenizer", lowered: bool = False) -> dict[str, Any]:
    """Return the parts of a tokenizer that make tokens of a text, in the form of the installed version.

    Args:
        tokenizer: of a folder.
        lowered: leave out the step that lower-cases a text, which sentence-transformers puts before the others where
            a Transformer module says so, and saves.
    """
    content = json.loads(tokenizer.to_str())
    if lowered:
        content["normalizer"] = _without_lower_casing(content["normalizer"])
    added = {token["content"]: {k: v for k, v in token.items() if k != "special"} for token in content["added_tokens"]}
    return {part: content[part] for part in PARTS} | {"added_tokens": added}


def _without_lower_casing(normalizer: dict[str, Any] | None) -> dict[str, Any] | None:
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    kept = [step for step in steps if step["type"] != "Lowercase"]
    return {"type": "Sequence", "normalizers": kept} if len(kept) > 1 else next(iter(kept), None)


def _as_stored(folder: Path, lowered: bool) -> dict[str, Any]:
    """Return a tokenizer as its files have it, with the vocabulary (token to id), None where no file has it."""
    if _is_fast(folder):
        tokenizer = _read_fast(folder)
        return _flags(folder) | _parts(tokenizer, lowered) | {"vocabulary": tokenizer.get_vocab(with_added_tokens=True)}
    vocabulary = None
    if (folder / "vocab.txt").is_file():
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        vocabulary = {token: i for i, token in enumerate(lines) if token}
    return _flags(folder) | {"vocabulary": vocabulary}


def _as_made(folder: Path, lowered: bool) -> dict[str, Any] | None:
    """Return a tokenizer as transformers makes it of the files; None where it cannot, or makes one of another kind."""
    from transformers import AutoTokenizer  # here, because files that are equal need no class

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception:  # of many kinds: no class, code of its own, files that are missing
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    sides = {key: getattr(tokenizer, key, FLAGS[key]) for key in ("split_special_tokens", "truncation_side")}
    return _parts(backend, lowered) | sides


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    shared = [key for key in ours if key in theirs]
    found = differences({key: ours[key] for key in shared}, {key: theirs[key] for key in shared})
    for place, one, other in found:
        return f"makes other tokens of a text: {place} is {shown(other)}, in the base {shown(one)}"
    return None


def _first_token(ours: Mapping[str, int], theirs: Mapping[str, int]) -> str:
    places = {token: (ours.get(token, NOWHERE), theirs.get(token, NOWHERE)) for token in ours.keys() | theirs.keys()}
    tokens = sorted(places, key=lambda token: (min(places[token]), places[token]))
    token = next(token for token in tokens if ours.get(token) != theirs.get(token))
    return f"token {token!r} is {theirs.get(token, 'not there')}, in the base {ours.get(token, 'not there')}"
