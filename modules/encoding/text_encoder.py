"""A text encoder: transformers backbone, pooling, normalisation.

Shapes: batch, length (tokens), dim.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.checkpoint_io import weight_files
from modules.checkpoints.st_folder import EncoderConfig, is_st_folder, read_encoder_config, write_encoder_config
from modules.encoding.encode import EncodeOptions, encode_texts
from modules.encoding.pooling import pool
from modules.encoding.tokenized_texts import pad, token_ids
from modules.errors import UserError
from modules.losses.task_batch import Features

LENGTH_WITHOUT_LIMIT = 512
"""Tokens kept where neither the model folder nor its tokenizer says (transformers then says 1e30)."""


class TextEncoder(nn.Module):
    """Maps texts to embeddings.

    Args:
        backbone: any transformers encoder or decoder with ``last_hidden_state``.
        tokenizer: its tokenizer.
        config: pooling, normalisation, prompts and maximum length.
        folder: that they were loaded from, if they were.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: EncoderConfig,
        folder: Path | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.config = config
        self.folder = folder
        for name, parameter in backbone.named_parameters():
            # A pooler head never enters a pooled embedding: it has no gradient, and is carried as it is.
            if name.startswith("pooler."):
                parameter.requires_grad_(False)

    @classmethod
    def load(cls, model: str | Path, *, pooling: str | None = None, trust_remote_code: bool = False) -> TextEncoder:
        """Load a model folder or hub name, in float32.

        Args:
            model: a sentence-transformers or plain transformers folder, or a hub name.
            pooling: for a plain transformers checkpoint, ``mean`` unless told. A sentence-transformers folder says
                its own, and another one is refused.
            trust_remote_code: let transformers run the model's own code.

        Raises:
            UserError: the model does not exist, lacks weights, has NaN weights, or a part that we cannot carry.
        """
        folder = find_base_model(str(model), code=trust_remote_code)
        config = encoder_config(folder, pooling)
        backbone = _load_backbone(folder, trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if tokenizer.pad_token is None:  # decoders often have none
            tokenizer.pad_token = tokenizer.eos_token
        if config.max_length is None:
            limit = min(tokenizer.model_max_length, getattr(backbone.config, "max_position_embeddings", 10**9))
            config = dataclasses.replace(config, max_length=limit if limit < 10**9 else LENGTH_WITHOUT_LIMIT)
        return cls(backbone, tokenizer, config, folder)

    def save(self, folder: str | Path, state: dict[str, Tensor] | None = None) -> None:
        """Write a folder that ``SentenceTransformer(folder)`` loads.

        Args:
            folder: made if absent.
            state: weights to write in the place of this encoder's, under the backbone's own names.
        """
        folder = Path(folder)
        self.backbone.save_pretrained(folder, state_dict=state)
        self.tokenizer.save_pretrained(folder)
        write_encoder_config(folder, self.config, self.dim)
        for file in self.folder.glob("*.py") if self.folder and self.folder.resolve() != folder.resolve() else ():
            shutil.copyfile(file, folder / file.name)  # the model's own code, which its config names

    @property
    def dim(self) -> int:
        """Size of an embedding."""
        return int(self.backbone.config.hidden_size)

    @property
    def max_length(self) -> int:
        """Tokens kept of a text, special ones included."""
        return self.config.max_length or LENGTH_WITHOUT_LIMIT

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def tokenize(
        self, texts: Sequence[str], max_length: int | None = None, prompts: str | Sequence[str] = ""
    ) -> Features:
        """Tokenise and pad to the longest.

        Args:
            texts: the texts.
            max_length: a tighter limit than the model's own.
            prompts: what goes before every text, or before each.
        """
        limit = min(max_length or self.max_length, self.max_length)
        each = [prompts] * len(texts) if isinstance(prompts, str) else prompts
        prompted = [prompt + text for prompt, text in zip(each, texts, strict=True)]
        return pad(token_ids(self.tokenizer, prompted, limit), self.tokenizer.pad_token_id)

    def forward(self, features: Features) -> Tensor:
        """Embed tokenised texts: ``[batch, dim]``."""
        hidden = self.backbone(**features).last_hidden_state
        embeddings = pool(hidden, features["attention_mask"], self.config.pooling)
        return F.normalize(embeddings, dim=-1) if self.config.normalize else embeddings

    def encode(self, texts: Sequence[str], **options: Unpack[EncodeOptions]) -> Tensor:
        """Embed texts: ``[len(texts), dim]`` float32 on the CPU. See `encode_texts`."""
        return encode_texts(self, self.tokenizer, self.max_length, texts, self.device, **options)


def encoder_config(folder: Path, pooling: str | None) -> EncoderConfig:
    """What a folder says of pooling, prompts and lengths.

    Args:
        folder: of a model.
        pooling: for a plain transformers checkpoint, which says nothing; ``mean`` unless told.

    Raises:
        UserError: a sentence-transformers folder says another pooling, or has a part that we cannot carry.
    """
    if not is_st_folder(folder):
        return EncoderConfig(pooling=pooling or "mean")
    config = read_encoder_config(folder)
    if pooling not in (None, config.pooling):
        raise UserError(f"{folder} pools by {config.pooling}, not by {pooling}: leave the pooling out")
    return config


def _load_backbone(folder: Path, trust_remote_code: bool) -> PreTrainedModel:
    """Load the weights; nothing may be missing, because transformers would fill it with random numbers."""
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "trust_remote_code": trust_remote_code,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    weight_files(folder)  # all in the folder: transformers would follow an index out of it
    try:
        backbone, info = AutoModel.from_pretrained(folder, **options)
        if info["missing_keys"] and all(key.startswith("pooler.") for key in info["missing_keys"]):
            backbone, info = AutoModel.from_pretrained(folder, add_pooling_layer=False, **options)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(f"{folder} has code of its own; read it, then allow it with trust_remote_code") from error
        raise UserError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    if info["missing_keys"]:
        raise UserError(f"{folder}: weights are missing: {', '.join(sorted(info['missing_keys'])[:5])}")
    refuse_not_finite(backbone, folder)
    return backbone


def refuse_not_finite(module: nn.Module, where: str | Path) -> None:
    """Raise a UserError that lists the parameters with NaN or infinite entries, if there are any."""
    bad = [name for name, weight in module.named_parameters() if not torch.isfinite(weight).all()]
    if bad:
        raise UserError(f"{where}: NaN or infinite weights in {len(bad)} tensors: {', '.join(bad[:5])}")
