"""An embedding model as MTEB wants to see it; every distinct text is encoded once.

mteb is imported inside functions only: importing it takes seconds and reseeds every random number generator.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from callbacks.prompts import prompt_names
from modules.st_folder import EncoderConfig
from modules.together import together

if TYPE_CHECKING:
    from mteb import TaskMetadata
    from mteb.models import ModelMeta
    from mteb.types import Array, BatchedInput, PromptType

log = logging.getLogger(__name__)


class Encoder(Protocol):
    """What is scored: a ``TextEncoder`` or anything that encodes like one."""

    @property
    def config(self) -> EncoderConfig:
        """Prompts and similarity function."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def encode(self, texts: Sequence[str], *, batch_size: int = 64, progress: bool = False) -> Tensor:
        """Embeddings ``[len(texts), dim]``, float32 on the CPU, of texts that carry their prompt already."""
        ...


class MtebEncoder:
    """mteb's ``EncoderProtocol`` around one set of weights.

    Embeddings are kept, so make a new instance when the weights have changed. With ``torch.distributed`` the texts
    are shared out over the processes and every process gets all embeddings: all must evaluate the same tasks.

    Args:
        encoder: the model.
        name: the model's name in result files, ``organisation/model``.
        revision: tells one set of weights from another in result files.
        prompts: win over the model's own, however special those are; see `callbacks.prompts`.
    """

    def __init__(
        self,
        encoder: Encoder,
        name: str = "local/model",
        revision: str = "unsaved",
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        self.encoder = encoder
        self.name = name
        self.revision = revision
        self.prompts = prompts or {}
        self._vectors: dict[str, Tensor] = {}

    @cached_property
    def mteb_model_meta(self) -> "ModelMeta":
        """How result files refer to the model."""
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
            batch_size: texts in one forward pass.
            show_progress_bar: draw one.

        Returns:
            ``[texts, dim]`` float32 on the CPU, in the order of ``inputs``.
        """
        prompt = self.prompt(task_metadata, prompt_type)
        log.info("%s, %s: prompt %r", task_metadata.name, prompt_type.value if prompt_type else "all texts", prompt)
        texts = [prompt + text for batch in inputs for text in batch["text"]]  # type: ignore[typeddict-item]
        # Sorted by length, every process gets an equal share of the work.
        unseen = sorted((text for text in dict.fromkeys(texts) if text not in self._vectors), key=len)
        if unseen:
            vectors = self._encode_shared(unseen, batch_size, show_progress_bar)
            self._vectors.update(zip(unseen, vectors, strict=True))
        return torch.stack([self._vectors[text] for text in texts])

    def prompt(self, task_metadata: "TaskMetadata", prompt_type: "PromptType | None" = None) -> str:
        """The prefix of a task's texts, chosen as mteb and sentence-transformers do.

        In this order: ``<task>-<side>``, ``<task>``, ``<task type>-<side>``, ``<task type>``, ``<side>`` (a document
        may also be called ``passage`` or ``corpus``), the model's default prompt, none.
        """
        own = self.encoder.config
        names = prompt_names(task_metadata.name, str(task_metadata.type), prompt_type.value if prompt_type else None)
        default = [own.default_prompt_name] if own.default_prompt_name else []
        for prompts, wanted in ((self.prompts, names), (own.prompts, [*names, *default])):
            for name in wanted:
                if name in prompts:
                    return prompts[name]
        return ""

    def similarity(self, embeddings1: "Array", embeddings2: "Array") -> "Array":
        """The model's own similarity ``[n1, n2]`` of ``[n1, dim]`` and ``[n2, dim]``."""
        from sentence_transformers import SimilarityFunction

        return SimilarityFunction.to_similarity_fn(self.encoder.config.similarity or "cosine")(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: "Array", embeddings2: "Array") -> "Array":
        """The model's own similarity ``[n]`` of the rows of two ``[n, dim]``."""
        from sentence_transformers import SimilarityFunction

        pairwise = SimilarityFunction.to_similarity_pairwise_fn(self.encoder.config.similarity or "cosine")
        return pairwise(embeddings1, embeddings2)

    def _encode_shared(self, texts: list[str], batch_size: int, progress: bool) -> Tensor:
        """Embeddings ``[len(texts), dim]``, each computed by one of the processes and sent to all."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return self.encoder.encode(texts, batch_size=batch_size, progress=progress)
        rank, world_size = dist.get_rank(), dist.get_world_size()
        each = -(-len(texts) // world_size)
        # Text k goes to rank k % world_size; wrapping around gives every rank as many texts and forward passes.
        mine = [texts[(rank + i * world_size) % len(texts)] for i in range(each)]
        with together():
            part = self.encoder.encode(mine, batch_size=batch_size, progress=progress and rank == 0)
        if "nccl" in dist.get_backend():
            part = part.to(self.encoder.device)
        parts = [torch.empty_like(part) for _ in range(world_size)]
        dist.all_gather(parts, part)
        return torch.stack(parts, dim=1).flatten(0, 1)[: len(texts)].cpu()
