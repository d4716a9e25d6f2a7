"""Embedding many texts fast: sorted by length, so that a batch holds little padding."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from modules.errors import UserError
from modules.task_batch import Features


@torch.no_grad()
def encode_texts(
    encoder: nn.Module,
    tokenize: Callable[[Sequence[str]], Features],
    texts: Sequence[str],
    device: torch.device,
    *,
    batch_size: int = 64,
    progress: bool = False,
) -> Tensor:
    """Embed texts in evaluation mode, without gradients; the encoder's mode is put back afterwards.

    Args:
        encoder: maps features to ``[batch, dim]``.
        tokenize: maps texts to features.
        texts: prompts are already part of them.
        device: where the encoder is.
        batch_size: texts a forward pass.
        progress: show a bar.

    Returns:
        ``[len(texts), dim]``, float32, on the CPU.

    Raises:
        UserError: there are no texts.
    """
    if not texts:
        raise UserError("there are no texts to embed")
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    training = encoder.training
    encoder.eval()
    try:
        parts = [
            encoder({key: value.to(device) for key, value in tokenize([texts[i] for i in rows]).items()}).float().cpu()
            for rows in tqdm(
                [order[start : start + batch_size] for start in range(0, len(order), batch_size)],
                desc="encoding",
                unit="batch",
                disable=not progress,
                leave=False,
            )
        ]
    finally:
        encoder.train(training)
    embeddings = torch.cat(parts)
    result = torch.empty_like(embeddings)
    result[torch.tensor(order)] = embeddings
    return result
