"""An embedding model as mteb's evaluation asks for it; every distinct text of a task is encoded once.

mteb is imported inside functions only: importing it takes seconds and reseeds every random number generator.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, Unpack

import torch
import torch.distributed as dist
from torch import Tensor

from callbacks.mteb.embedding_cache import EmbeddingCache
from callbacks.mteb.task_prompts import prompt_names
from modules.distributed import fail_together, rank, world_size
from modules.encoding.encode import EncodeOptions
from modules.encoding.prompts import named_prompts
from modules.encoding.text_tokenizer import TextTokenizer
from modules.encoding.tokenized_texts import TokenizedTexts

if TYPE_CHECKING:
    from mteb import TaskMetadata
    from mteb.models import ModelMeta
    from mteb.types import Array, BatchedInput, PromptType

log = logging.getLogger(__name__)


class Encoder(Protocol):
    """The model that is scored: a ``TextEncoder`` or anything that encodes like one."""

    @property
    def prompts(self) -> dict[str, str]:
        """Prefixes of texts by name."""
        ...

    @property
    def default_prompt_name(self) -> str | None:
        """Name of the prompt for texts whose prompt is not named."""
        ...

    @property
    def similarity(self) -> str:
        """Name of the similarity function."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        ...

    @property
    def tokenizer(self) -> TextTokenizer:
        """Tokenizer of the model."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens kept of a text."""
        ...

    def encode(self, texts: Sequence[str], prompt: str = "", **options: Unpack[EncodeOptions]) -> Tensor:
        """Return the embeddings of texts behind a prompt: ``[len(texts), dim]``, float32, on the CPU."""
        ...


class MtebEncoder:
    """mteb's ``EncoderProtocol`` around one set of weights.

    Embeddings of the task at hand are kept, see `EmbeddingCache`, so make a new instance when the weights have changed.
    With ``torch.distributed`` the texts are shared out over the processes and every process gets all embeddings: all
    must evaluate the same tasks.

    Args:
        encoder: the model.
        name: the model's name in result files, ``organisation/model``.
        revision: tells one set of weights from another in result files.
        prompts: win over the model's own, however special those are; see `callbacks.mteb.task_prompts`.
        precision: ``float32``, or ``bfloat16``: faster where the device has it, and the scores differ a little.
        tokenized: shared by the models that are scored on the same texts; None: this model tokenises for itself.
        progress: draw a bar of the texts of a task where there is a terminal.

    Example:
        >>> encoder = MtebEncoder(TextEncoder.load("all-MiniLM-L6-v2"))
        >>> mteb.evaluate(encoder, mteb.get_tasks(["STSBenchmark"]))
    """

    def __init__(
        self,
        encoder: Encoder,
        name: str = "local/model",
        revision: str = "unsaved",
        prompts: Mapping[str, str] | None = None,
        *,
        precision: str = "float32",
        tokenized: TokenizedTexts | None = None,
        progress: bool = False,
    ) -> None:
        self.encoder = encoder
        self.name = name
        self.revision = revision
        self.prompts = prompts or {}
        self.precision = precision
        self.progress = progress
        self._tokenized = None if tokenized is None else tokenized.of(encoder.tokenizer, encoder.max_length)
        self._kept = EmbeddingCache()
        self._said: set[tuple[str, str, str]] = set()

    def renamed(self, name: str, revision: str) -> "MtebEncoder":
        """Return the same weights under another name and revision; the two share the embeddings.

        Args:
            name: in result files.
            revision: likewise.
        """
        other = copy(self)
        other.name, other.revision = name, revision
        other.__dict__.pop("mteb_model_meta", None)
        return other

    @cached_property
    def mteb_model_meta(self) -> "ModelMeta":
        """Name and revision of the model in result files."""
        from mteb.models import ModelMeta

        return ModelMeta.create_empty({"name": self.name, "revision": self.revision})

    def encode(
        self,
        inputs: "Iterable[BatchedInput]",
        *,
        task_metadata: "TaskMetadata",
        prompt_type: "PromptType | None" = None,
        batch_size: int = 64,
        show_progress_bar: bool = False,
        **_: Any,
    ) -> Tensor:
        """Embed the texts of a task.

        Args:
            inputs: batches with a ``text`` column; mteb has already joined a document's title and body.
            task_metadata: the task, which may have a prompt of its own.
            prompt_type: the side of a retrieval task.
            batch_size: see `encode_texts`.
            show_progress_bar: draw one, also if the instance does not say so.

        Returns:
            ``[texts, dim]`` float32 on the CPU, in the order of ``inputs``.
        """
        prompt = self.prompt(task_metadata, prompt_type)
        self._log_prompt(task_metadata.name, prompt_type.value if prompt_type else "all texts", prompt)
        texts: list[str] = [text for batch in inputs for text in batch["text"]]  # type: ignore[typeddict-item]
        kept = self._kept.of(task_metadata.name, prompt, texts)
        unseen = [text for text in dict.fromkeys(texts) if text not in kept]
        if unseen:
            bar = task_metadata.name if self.progress or show_progress_bar else ""
            vectors = self._encode_shared(unseen, prompt, batch_size, bar)
            self._kept.add(prompt, unseen, vectors)
            if len(unseen) == len(texts):  # of a large corpus, nothing is copied
                return vectors
            kept.update(zip(unseen, vectors, strict=True))
        return torch.stack([kept[text] for text in texts])

    def prompt(self, task_metadata: "TaskMetadata", prompt_type: "PromptType | None" = None) -> str:
        """Return the prefix of a task's texts, chosen as mteb and sentence-transformers do.

        In this order: ``<task>-<side>``, ``<task>``, ``<task type>-<side>``, ``<task type>``, ``<side>`` (in the given
        prompts a document may also be called ``passage`` or ``corpus``; a model always has ``query`` and ``document``),
        the model's default prompt, none.
        """
        own = self.encoder
        names = prompt_names(task_metadata.name, str(task_metadata.type), prompt_type.value if prompt_type else None)
        for prompts, default in ((self.prompts, None), (named_prompts(own.prompts), own.default_prompt_name)):
            for name in (*names, default):
                if name is not None and name in prompts:
                    return prompts[name]
        return ""

    def similarity(self, embeddings1: "Array", embeddings2: "Array") -> "Array":
        """Return the model's own similarity ``[n1, n2]`` of ``[n1, dim]`` and ``[n2, dim]``."""
        from sentence_transformers import SimilarityFunction

        return SimilarityFunction.to_similarity_fn(self.encoder.similarity)(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: "Array", embeddings2: "Array") -> "Array":
        """Return the model's own similarity ``[n]`` of the rows of two ``[n, dim]``."""
        from sentence_transformers import SimilarityFunction

        pairwise = SimilarityFunction.to_similarity_pairwise_fn(self.encoder.similarity)
        return pairwise(embeddings1, embeddings2)

    def _log_prompt(self, task: str, side: str, prompt: str) -> None:
        """Log a prompt; a task may ask for its texts in many calls."""
        if (task, side, prompt) not in self._said:
            self._said.add((task, side, prompt))
            log.info("%s, %s: prompt %r", task, side, prompt)

    def _encode_shared(self, texts: list[str], prompt: str, batch_size: int, bar: str) -> Tensor:
        """Return embeddings ``[len(texts), dim]``, each computed by one of the processes and sent to all."""
        if world_size() == 1:
            return self._encode(texts, prompt, batch_size, bar)
        each = -(-len(texts) // world_size())
        # By length, every process gets an equal share of the work.
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        # The k-th goes to rank k % world_size; wrapping around gives every rank as many texts and forward passes.
        mine = [texts[order[(rank() + i * world_size()) % len(texts)]] for i in range(each)]
        with fail_together():
            part = self._encode(mine, prompt, batch_size, "" if rank() else bar)
        if "nccl" in dist.get_backend():
            part = part.to(self.encoder.device)
        parts = [torch.empty_like(part) for _ in range(world_size())]
        dist.all_gather(parts, part)
        vectors = torch.empty(len(texts), part.shape[-1])
        for first, gathered in enumerate(parts):
            places = order[first :: world_size()]
            vectors[places] = gathered[: len(places)].cpu()
        return vectors

    def _encode(self, texts: list[str], prompt: str, batch_size: int, bar: str) -> Tensor:
        return self.encoder.encode(
            texts, prompt, batch_size=batch_size, precision=self.precision, tokenized=self._tokenized, bar=bar
        )
