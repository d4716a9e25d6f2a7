"""A text encoder as one ONNX graph, from token ids to sentence embeddings.

Shapes: batch, length (tokens), dim.
"""

import warnings
from pathlib import Path

import torch
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor, nn

from modules.encoding.text_encoder import TextEncoder
from modules.errors import UserError
from modules.quiet_loggers import quiet_loggers

INPUTS, OUTPUT = ("input_ids", "attention_mask"), "sentence_embedding"
"""Names in the graph: int64 ``[batch, length]`` each, and float32 ``[batch, dim]``."""

POOLINGS = ("mean", "cls", "lasttoken")

LATER_MODULES = ("Dense", "Normalize")
"""Modules that may follow the pooling."""

IN_ONE_FILE = 2**31 - 2**26
"""Bytes of weights up to which they lie in the file of the graph, whose format ends at 2 GB."""


class SentenceGraph(nn.Module):
    """The part of a pipeline that is a graph: tokens in, embeddings out.

    Args:
        encoder: has the pipeline.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.pipeline = encoder.pipeline
        self.dim = encoder.pipeline.truncate_dim

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the embeddings ``[batch, dim]`` of tokens.

        Args:
            input_ids: ``[batch, length]``.
            attention_mask: ``[batch, length]``, 0 where `input_ids` is padding.
        """
        embedded = self.pipeline({"input_ids": input_ids, "attention_mask": attention_mask})
        embedding: Tensor = embedded["sentence_embedding"]
        return embedding if self.dim is None else embedding[:, : self.dim]


def refuse_other_pipelines(encoder: TextEncoder) -> None:
    """Refuse models of which no graph is made.

    Raises:
        UserError: the model has other modules than a Transformer, a pooling of `POOLINGS`, Dense and Normalize; pools
            without the tokens of a prompt; or makes its tokens in a way of its own.
    """
    first, *later = list(encoder.pipeline)
    kinds = [type(module).__name__ for module in (first, *later)]
    pooling = later[0] if later else None
    if not isinstance(first, Transformer) or not isinstance(pooling, Pooling) or set(kinds[2:]) - set(LATER_MODULES):
        raise UserError(
            f"a model of {', '.join(kinds)} has no ONNX export; there is one of a Transformer with a Pooling, and "
            f"{' or '.join(LATER_MODULES)} after it"
        )
    if pooling.pooling_mode not in POOLINGS:
        raise UserError(f"the pooling {pooling.pooling_mode} has no ONNX export; there is one of {', '.join(POOLINGS)}")
    if not pooling.include_prompt:
        raise UserError("a model that pools without the tokens of its prompt has no ONNX export")
    if not encoder.tokenizer.direct or not getattr(first.tokenizer, "is_fast", False):
        raise UserError("a model whose tokens are not made by a tokenizer.json alone has no ONNX export")


def write_graph(encoder: TextEncoder, file: Path) -> None:
    """Write the graph of a text encoder, for any batch and length.

    Args:
        encoder: on the CPU, in evaluation mode.
        file: to write; weights of 2 GB and more go into a file beside it.

    Raises:
        UserError: torch cannot export the model.
    """
    encoder.pipeline[0].model.config.use_cache = False  # type: ignore[union-attr]  # else a decoder returns its cache
    length = torch.export.Dim("length", min=1, max=min(encoder.max_length, 2**20))
    shape = {0: torch.export.Dim("batch"), 1: length}
    example = torch.ones(2, min(7, encoder.max_length), dtype=torch.int64)
    try:
        with torch.no_grad(), warnings.catch_warnings(), quiet_loggers("torch.onnx", "onnxscript"):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                SentenceGraph(encoder),
                (example, example.clone()),
                dynamo=True,
                input_names=INPUTS,
                output_names=[OUTPUT],
                dynamic_shapes=(shape, shape),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"torch cannot export the model to ONNX: {_cause(error)}") from error
    assert program is not None
    bytes_ = sum(weight.numel() * weight.element_size() for weight in encoder.parameters())
    program.save(file, external_data=bytes_ > IN_ONE_FILE)


def _cause(error: BaseException) -> str:
    """Return the first line of the error that another one was raised for."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
