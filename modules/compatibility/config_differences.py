"""Differences of configs by which equal weights compute otherwise: every key counts but the keys listed here."""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.checkpoints.text_settings import POSITIONS_FROM_PADDING
from modules.json_files import differences, read_json

HARMLESS = frozenset(
    {
        # where it comes from and what saved it; code is compared by itself
        *("architectures", "transformers_version", "_name_or_path", "_commit_hash", "name_or_path", "auto_map"),
        *("model_name", "finetuning_task", "tokenizer_class", "sentence_transformers", "transformers.js_config"),
        # what weights are stored and computed in, and by which kernels
        *("dtype", "torch_dtype", "attn_implementation", "experts_implementation", "pretraining_tp"),
        *("_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset"),
        *("use_flash_attn", "use_memory_efficient_attention", "unpad_inputs", "fused_bias_fc"),
        *("reference_compile", "deterministic_flash_attn", "chunk_size_feed_forward", "torchscript"),
        # training only, or generation only
        *("gradient_checkpointing", "repad_logits_with_grad", "use_cache"),
        # what a forward pass returns beside the last hidden states
        *("return_dict", "use_return_dict", "output_hidden_states", "output_attentions", "output_past"),
        *("output_router_logits", "tie_word_embeddings", "tie_encoder_decoder"),
        # heads, which no embedding passes through
        *("id2label", "label2id", "num_labels", "_num_labels", "problem_type", "sparse_prediction"),
        *("sparse_pred_ignore_index", "task_specific_params", "decoder_bias", "final_logit_softcapping"),
        # special tokens, but for the padding of some models, and the generation of text
        *("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id", "unk_token_id"),
        *("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "bad_words_ids", "prefix"),
        *("suppress_tokens", "begin_suppress_tokens", "max_length", "min_length", "do_sample", "early_stopping"),
        *("num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p"),
        *("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
        *("num_return_sequences", "output_scores", "return_dict_in_generate", "remove_invalid_values"),
        *("exponential_decay_length_penalty",),
    }
)
"""Keys that change nothing of the last hidden states in evaluation."""

HARMLESS_NAMES = re.compile(
    r".*drop(out)?(_.*)?$"  # training only
    r"|initializer_.*|(.*_)?init_std$|init_(method|scale)$|.*_loss(_.*)?$"  # training only
    r"|(classifier|summary|pooler)_.*"  # heads
    r"|unsloth_.*"
)

SAID_BY_LAYER_TYPES = ("sliding_window_pattern", "_sliding_window_pattern", "max_window_layers")
"""Keys of rules by which a class gives every layer its kind, where the kinds are not written out."""

FORGOTTEN = {"position_embedding_type": "absolute"}
"""Keys that newer classes lack, and their defaults in older ones."""


def config_difference(base: Path, other: Path) -> tuple[str, Any, Any] | None:
    """Return the first setting by which two models would compute otherwise with equal weights.

    Args:
        base: folder of the base.
        other: folder of the other model.

    Returns:
        The key, the base's value and the other's; None where no setting differs, or a config is absent.
    """
    ours, theirs = read_json(base / "config.json"), read_json(other / "config.json")
    if ours is None or theirs is None or _first(ours, theirs) is None:
        return None
    filled = _filled(ours), _filled(theirs)
    return _first(*filled) if None not in filled else _first(ours, theirs)  # type: ignore[arg-type]


def _first(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    both = _relevant(ours), _relevant(theirs)
    found = (difference for difference in differences(*both) if not _says_nothing(*difference[1:]))
    return next(found, None)


def _relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config, or a config within it, without harmless keys."""
    kept = {
        key: _relevant(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in HARMLESS and not HARMLESS_NAMES.match(key)
    }
    if "model_type" in config:
        kept = FORGOTTEN | kept
        if not POSITIONS_FROM_PADDING.fullmatch(str(config["model_type"])):
            kept.pop("pad_token_id", None)
        if "layer_types" in config:
            kept = {key: value for key, value in kept.items() if key not in SAID_BY_LAYER_TYPES}
        if not _stretches_positions(config):  # their number is then in the weights, or without meaning
            kept.pop("max_position_embeddings", None)
    return kept


def _stretches_positions(config: Mapping[str, Any]) -> bool:
    """Return whether rotary positions are scaled, for which the number of positions may count."""
    rope: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    by_kind = [value for value in rope.values() if isinstance(value, dict)]  # of the kinds of layers, where they differ
    return any(part.get("rope_type", part.get("type", "default")) != "default" for part in by_kind or [rope])


def _says_nothing(*values: Any) -> bool:
    """Return whether all values are absent, null, false or empty, which mean the same."""
    return all(value is None or value is False or value in ("", [], {}) for value in values)


def _filled(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a config as the installed transformers fills in its defaults; None where it has no class for it."""
    from transformers import CONFIG_MAPPING  # here, because configs that are equal as they are need no class

    try:
        settings = CONFIG_MAPPING[config["model_type"]].from_dict(copy.deepcopy(dict(config)))
    except Exception:  # of many kinds: the type is unknown, a value is refused by the class
        return None
    filled: dict[str, Any] = settings.to_dict()
    return filled
