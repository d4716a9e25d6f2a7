"""A text encoder: a sentence-transformers pipeline that embeds each text once, and without padding.

Shapes: batch, length (tokens), dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
from torch import Tensor, nn
from transformers import PreTrainedModel

from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.lora import is_adapter
from modules.checkpoints.text_settings import Pipeline
from modules.encoding.adapter_folder import AdapterFolder
from modules.encoding.encode import EncodeOptions, encode_texts
from modules.encoding.features import Features
from modules.encoding.pipeline import load_pipeline, parameter_places
from modules.encoding.saving import save_pipeline
from modules.encoding.text_tokenizer import TextTokenizer
from modules.encoding.tokenization import Tokenization


class TextEncoder(nn.Module):
    """Maps texts to embeddings, as ``SentenceTransformer`` does.

    Args:
        pipeline: of sentence-transformers; its tokenizer, pooling, Dense layers and so on are used as they are.
        folder: that its weights were loaded from.
        layout: the folder that its modules and their settings come from; None: `folder`.

    Example:
        >>> encoder = TextEncoder.load("sentence-transformers/all-MiniLM-L6-v2")
        >>> encoder.encode(["A text.", "Another text."]).shape
        torch.Size([2, 384])
    """

    def __init__(self, pipeline: SentenceTransformer, folder: Path, layout: Path | None = None) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.folder = folder
        self.layout = layout or folder
        self._places = parameter_places(pipeline, folder)
        self.tokenizer = TextTokenizer(pipeline)
        self.max_length = self.tokenizer.max_length
        """Number of tokens kept of a text, special tokens included; `NO_LIMIT` where nothing limits it."""
        self._adapter: AdapterFolder | None = None
        for name, parameter in pipeline.named_parameters():
            # A pooler head never enters a pooled embedding: it has no gradient, and is carried as it is.
            if ".pooler." in name:
                parameter.requires_grad_(False)
        self.train(pipeline.training)

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        pooling: str | None = None,
        trust_remote_code: bool = False,
        dtype: torch.dtype = torch.float32,
        attn_implementation: str | None = None,
    ) -> TextEncoder:
        """Load a model folder or hub name.

        Args:
            model: a sentence-transformers or plain transformers folder, an adapter's, or a hub name.
            pooling: of a plain transformers checkpoint; see `load_pipeline`.
            trust_remote_code: let the libraries run the model's own code.
            dtype: of the weights.
            attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2``; None: transformers' default.

        Raises:
            UserError: the model does not exist, or cannot be loaded whole.
        """
        folder = find_base_model(str(model), code=trust_remote_code)
        adapter = AdapterFolder(folder, trust_remote_code) if is_adapter(folder) else None
        pipeline = load_pipeline(
            adapter.folder if adapter else folder,
            pooling=pooling,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            attn_implementation=attn_implementation,
        )
        encoder = cls(pipeline, adapter.folder if adapter else folder)
        encoder._adapter = adapter  # its folder exists as long as the object
        return encoder

    def take_pipeline(self, other: TextEncoder) -> None:
        """Take the modules after the first, and the settings, of another model.

        Args:
            other: a model whose first module has the same architecture.
        """
        modules = [self.pipeline[0], *list(other.pipeline)[1:]]
        self.pipeline = SentenceTransformer(modules=modules, device="cpu").eval()
        self.pipeline.similarity_fn_name = other.pipeline.similarity_fn_name
        self.layout = other.layout
        self.take_settings(other.settings())

    def take_settings(self, settings: Mapping[str, Any]) -> None:
        """Change the settings of how texts are read.

        Args:
            settings: some of the keys of `settings`; the others stay as they are.
        """
        self.pipeline.prompts = settings.get("prompts", self.pipeline.prompts)
        self.pipeline.default_prompt_name = settings.get("default_prompt_name", self.pipeline.default_prompt_name)
        self.pipeline.truncate_dim = settings.get("truncate_dim", self.pipeline.truncate_dim)
        self.max_length = min(settings.get("max_length") or self.max_length, self.tokenizer.positions)

    def settings(self) -> dict[str, Any]:
        """Return the settings of how texts are read, in the form of `text_settings`."""
        return {
            "max_length": self.max_length,
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
            "truncate_dim": self.pipeline.truncate_dim,
        }

    def described(self) -> dict[str, Any]:
        """Return everything but weights and tokenizer that an embedding depends on, in plain values for keys."""
        later = [module for module in list(self.pipeline)[1:] if isinstance(module, Module)]
        modules = [[type(module).__name__, module.get_config_dict()] for module in later]
        return self.settings() | {"modules": modules, "similarity": self.similarity}

    def save(self, folder: str | Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write a folder that ``SentenceTransformer(folder)`` loads, in new and old versions; see `save_pipeline`.

        Args:
            folder: made if absent.
            state: weights to write in the place of this encoder's, by canonical name.
        """
        weights = {name: weight.detach() for name, weight in self.weights().items()} | dict(state or {})
        save_pipeline(self.pipeline, self.folder, Pipeline(self.layout, self.settings()), weights, Path(folder))

    @property
    def backbone(self) -> PreTrainedModel:
        """The transformers model within the first module."""
        first = self.pipeline[0]
        assert isinstance(first, Transformer), "static embeddings have no transformers model"
        return first.model

    @property
    def dim(self) -> int:
        """The size of an embedding."""
        return int(self.pipeline.get_embedding_dimension() or 0)

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts: name to prefix."""
        return {name: prompt or "" for name, prompt in self.pipeline.prompts.items()}

    @property
    def default_prompt_name(self) -> str | None:
        """The name of the prompt that is used where no prompt is named."""
        return self.pipeline.default_prompt_name

    @property
    def similarity(self) -> str:
        """The sentence-transformers name of the similarity function."""
        return str(self.pipeline.similarity_fn_name)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def weights(self) -> dict[str, nn.Parameter]:
        """Return all parameters by canonical name; see `parameter_places`."""
        return {name: self.pipeline.get_parameter(place) for name, place in self._places.items()}

    def qualified(self, name: str) -> str:
        """Return a parameter's name in this module, as ``named_parameters`` has it, by its canonical name."""
        return f"pipeline.{self._places[name]}"

    def tokenize(
        self, texts: Sequence[str], max_length: int | None = None, prompts: str | Sequence[str] = ""
    ) -> Features:
        """Tokenise texts and pad them to the longest.

        Args:
            texts: without their prompts.
            max_length: a tighter limit of tokens than the model's own.
            prompts: prefix of all texts, or of each.
        """
        each = [prompts] * len(texts) if isinstance(prompts, str) else prompts
        return self.tokenization(max_length)(texts, prompts=each)

    def tokenization(self, max_length: int | None = None) -> Tokenization:
        """Return how texts are tokenised, with a tighter limit than the model's own if one is given."""
        limit = min(max_length or self.max_length, self.max_length)
        return Tokenization(self.tokenizer, limit, self.pools_without_prompts)

    @property
    def pools_without_prompts(self) -> bool:
        """Whether the tokens of a prompt are left out where token embeddings are pooled (``include_prompt: false``)."""
        return any(isinstance(module, Pooling) and not module.include_prompt for module in self.pipeline)

    def forward(self, features: Features) -> Tensor:
        """Embed tokenised texts: ``[batch, dim]``."""
        prompt_lengths = features.get("prompt_lengths")
        found: dict[str, Any] = {"input_ids": features["input_ids"], "attention_mask": features["attention_mask"]}
        for module in self.pipeline:
            if isinstance(module, StaticEmbedding):
                found = module(_bags(features))
            elif isinstance(module, Pooling) and prompt_lengths is not None:
                found = _pool_without_prompts(module, found, prompt_lengths)
            else:
                found = module(found)
        embeddings: Tensor = found["sentence_embedding"]
        return embeddings[:, : self.pipeline.truncate_dim]

    def encode(self, texts: Sequence[str], prompt: str = "", **options: Unpack[EncodeOptions]) -> Tensor:
        """Embed texts.

        Args:
            texts: without the prompt.
            prompt: prefix of each text.
            options: see `encode_texts`.

        Returns:
            ``[len(texts), dim]``, float32, on the CPU.
        """
        return self.embed(self, texts, prompt, **options)

    def embed(self, encoder: nn.Module, texts: Sequence[str], prompt: str, **options: Unpack[EncodeOptions]) -> Tensor:
        """Embed texts with another module, which computes with other weights; see `encode`."""
        return encode_texts(
            encoder,
            self.tokenizer,
            self.max_length,
            texts,
            self.device,
            prompt=prompt,
            pools_without_prompts=self.pools_without_prompts,
            **options,
        )


def _bags(features: Features) -> dict[str, Tensor]:
    """Return the tokens of all texts one after the other, and the place where each text begins."""
    mask = features["attention_mask"].bool()
    lengths = mask.sum(1)
    return {"input_ids": features["input_ids"][mask], "offsets": lengths.cumsum(0) - lengths}


def _pool_without_prompts(module: Pooling, found: dict[str, Any], lengths: Tensor) -> dict[str, Any]:
    """Pool texts whose prompts differ in length, each as if it were alone."""
    pooled: Tensor | None = None
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().flatten()
        part = {key: value[rows] for key, value in found.items() if isinstance(value, Tensor)}
        embeddings = module(part | {"prompt_length": int(length)})["sentence_embedding"]
        pooled = embeddings.new_zeros(len(lengths), embeddings.shape[1]) if pooled is None else pooled
        pooled = pooled.index_copy(0, rows, embeddings)
    assert pooled is not None
    return found | {"sentence_embedding": pooled}
