"""Embeddings of texts by an exported model, with numpy, tokenizers and onnxruntime alone.

Shapes: texts, dim.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from modules.checkpoints.text_settings import NO_LIMIT
from modules.encoding.text_encoder import TextEncoder
from modules.onnx_export.sentence_graph import INPUTS

TOKENIZER = "tokenizer.json"

BATCH_SIZES = (1, 2, 8)
"""Texts of the batches that texts are embedded in, in turn: each batch is padded to its longest text."""

Embeddings = NDArray[np.float32]


def write_tokenizer(encoder: TextEncoder, folder: Path) -> None:
    """Write a ``tokenizer.json`` that cuts and pads texts as the model needs them.

    Args:
        encoder: has the tokenizer.
        folder: of the exported model.
    """
    tokenizer = encoder.pipeline.tokenizer
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    if encoder.max_length < NO_LIMIT:
        backend.enable_truncation(encoder.max_length, direction=tokenizer.truncation_side)
    pad_id = encoder.tokenizer.pad_id
    backend.enable_padding(
        direction=tokenizer.padding_side, pad_id=pad_id, pad_token=backend.id_to_token(pad_id) or "[PAD]"
    )
    backend.save(str(folder / TOKENIZER))


def embed(folder: Path, graph: str, texts: Sequence[str]) -> Embeddings:
    """Return the embeddings of texts: ``[texts, dim]``.

    Args:
        folder: of the exported model.
        graph: the file of the graph in it.
        texts: with their prompts.
    """
    import onnxruntime

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    session = onnxruntime.InferenceSession(str(folder / graph), providers=["CPUExecutionProvider"])
    found: list[Embeddings] = []
    start = 0
    while start < len(texts):
        size = BATCH_SIZES[len(found) % len(BATCH_SIZES)]
        tokens = tokenizer.encode_batch(list(texts[start : start + size]))
        columns = ([one.ids for one in tokens], [one.attention_mask for one in tokens])
        feed = {name: np.array(column, dtype=np.int64) for name, column in zip(INPUTS, columns, strict=True)}
        found.append(session.run(None, feed)[0])
        start += size
    return np.concatenate(found)


def relative_error(found: Embeddings, expected: Embeddings) -> float:
    """Return the largest distance of a text's two embeddings, relative to the length of the expected one."""
    return float((np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


def cosines(found: Embeddings, expected: Embeddings) -> NDArray[np.float32]:
    """Return the cosine of each text's two embeddings: ``[texts]``."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosine: NDArray[np.float32] = (found * expected).sum(axis=1) / lengths
    return cosine
