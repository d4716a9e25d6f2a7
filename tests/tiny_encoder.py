"""A text encoder small enough for any test, built from a config."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedModel, PreTrainedTokenizerFast

from modules.checkpoints.st_folder import LEGACY, write_pipeline
from modules.encoding.text_encoder import TextEncoder
from modules.json_files import read_json, write_json

WORDS = ["a", "the", "red", "blue", "cat", "dog", "ball", "sky", "sits", "runs", "is", "query", ":", "document"]


@dataclass(frozen=True)
class Settings:
    """What turns the hidden states of the tiny models into embeddings."""

    pooling: str = "mean"
    normalize: bool = True
    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str = "cosine"


def tiny_encoder(seed: int = 0, config: Settings | None = None) -> TextEncoder:
    """A two-layer BERT of width 16 that knows ``WORDS``; another seed gives other weights."""
    torch.manual_seed(seed)
    shape = BertConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    config = config or Settings(max_length=32)
    backbone = BertModel(shape, add_pooling_layer=False)
    return _kept(f"bert {seed} {config}", lambda: loaded(backbone, tiny_tokenizer(), config))


def tiny_decoder(config: Settings | None = None) -> TextEncoder:
    """A two-layer Llama of width 16 that knows ``WORDS``."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(WORDS) + 4, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    config = config or Settings("lasttoken", max_length=32)
    return _kept(f"llama {config}", lambda: loaded(LlamaModel(shape), tiny_tokenizer(), config))


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """BERT's special tokens, and whole words."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def _kept(key: str, make: Callable[[], TextEncoder]) -> TextEncoder:
    """A copy of an encoder that is made once per process."""
    if key not in _ENCODERS:
        _ENCODERS[key] = make()
    return deepcopy(_ENCODERS[key])


_ENCODERS: dict[str, TextEncoder] = {}


def loaded(backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: Settings) -> TextEncoder:
    """The encoder of a folder with this model, which is kept until the process ends."""
    folder = _new_folder()
    # Not by `save_pretrained`, which writes nothing in any but the first of several processes.
    backbone.config.dtype = torch.float32
    backbone.config.save_pretrained(folder)
    save_file(backbone.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    write_settings(folder, config, backbone.config.hidden_size)
    return TextEncoder.load(folder)


def pooling_of(encoder: TextEncoder) -> str:
    """The mode of an encoder's pooling."""
    return next(module.pooling_mode for module in encoder.pipeline if isinstance(module, Pooling))


def save_plain(folder: Path, seed: int = 0) -> Path:
    """Write a transformers folder, which says nothing of pooling, prompts and the longest text."""
    tiny = tiny_encoder(seed)
    tiny.backbone.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_settings(folder: Path, config: Settings, dim: int) -> None:
    """Make a transformers folder one of sentence-transformers."""
    write_pipeline(folder, [config.pooling], dim)
    if config.normalize:
        modules = read_json(folder / "modules.json")
        normalize = {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{LEGACY}Normalize"}
        write_json(folder / "modules.json", [*modules, normalize])
        (folder / "2_Normalize").mkdir(exist_ok=True)
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": config.max_length, "do_lower_case": False} if config.max_length else {},
    )
    general = {
        "prompts": config.prompts,
        "default_prompt_name": config.default_prompt_name,
        "similarity_fn_name": config.similarity,
    }
    write_json(folder / "config_sentence_transformers.json", general)


def _new_folder() -> Path:
    folder = Path(_all_folders().name) / str(len(list(Path(_all_folders().name).iterdir())))
    folder.mkdir()
    return folder


@cache
def _all_folders() -> "TemporaryDirectory[str]":
    return TemporaryDirectory(prefix="tiny-encoders-")
