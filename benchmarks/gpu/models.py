"""Models of random weights, experts around a base, and batches for them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoModel, BertConfig, PreTrainedConfig, PreTrainedTokenizerFast, Qwen3Config

from benchmarks.gpu.data import WORDS
from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.model_settings import change_json
from modules.checkpoints.st_folder import write_pipeline
from modules.encoding.text_encoder import TextEncoder
from modules.errors import UserError
from modules.losses.task_batch import LossConfig, TaskBatch

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


@dataclass(frozen=True)
class Shape:
    """A size of model.

    Args:
        name: in tables.
        config: makes its transformers config.
        pooling: of its embeddings.
        rows: pairs in a step of the speed measurements.
        length: tokens of each of their texts.
        micro_batches: parts that a step's pairs are embedded in, so that activations fit beside eight task vectors.
        lr: at which the expert of the checks learns.
    """

    name: str
    config: Callable[[], PreTrainedConfig]
    pooling: str = "mean"
    rows: int = 128
    length: int = 128
    micro_batches: int = 1
    lr: float = 1e-4

    @property
    def tokens(self) -> int:
        """Tokens in a step: 32,768."""
        return self.rows * 2 * self.length


MINILM = Shape(
    "MiniLM",
    lambda: BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
)
BERT_BASE = Shape("BERT-base", BertConfig)
QWEN3 = Shape(
    "0.6B (Qwen3)",
    lambda: Qwen3Config(
        hidden_size=1024,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
    ),
    pooling="lasttoken",
    micro_batches=2,
)
SHAPES = (MINILM, BERT_BASE, QWEN3)

_TINY: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_TINY |= {"vocab_size": 99, "initializer_range": 0.2}
TINY_SHAPES = (
    Shape("tiny BERT", lambda: BertConfig(**_TINY), rows=8, length=8, lr=3e-3),
    Shape(
        "tiny Qwen3",
        lambda: Qwen3Config(**_TINY, num_key_value_heads=2, head_dim=8),
        pooling="lasttoken",
        rows=8,
        length=8,
        micro_batches=2,
    ),
)


def random_encoder(shape: Shape, device: torch.device | str = "cpu", seed: int = 0) -> TextEncoder:
    """An encoder of this shape to measure with; see `save_random`."""
    with TemporaryDirectory() as folder:
        save_random(shape, Path(folder), device, seed)
        return TextEncoder.load(folder).to(device)


def save_random(shape: Shape, folder: Path, device: torch.device | str = "cpu", seed: int = 0) -> None:
    """Save a model of this shape, without dropout, whose tokenizer knows the words of `benchmarks.gpu.data`.

    Args:
        shape: of the model.
        folder: where to.
        device: that makes the random weights.
        seed: of these.
    """
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    torch.manual_seed(seed)
    with torch.device(device):
        backbone = AutoModel.from_config(shape.config())
    # Not by `save_pretrained`, which leaves the weights to others once there was a process group.
    backbone.config.save_pretrained(folder)
    save_file(backbone.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=shape.length, **names)
    tokenizer.save_pretrained(folder)
    write_pipeline(folder, [shape.pooling], backbone.config.hidden_size)
    without_dropout(folder)


def without_dropout(folder: Path) -> None:
    """Set the dropout of a model's config to 0: its random numbers differ from device to device."""
    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    change_json(folder / "config.json", dropouts, only_known=True)


def save_base(folder: Path, name: str | None, instead: Shape) -> str:
    """Save a model without dropout to compare and train with.

    Args:
        folder: where to.
        name: a folder or hub name; None, or where there is no such model: random weights.
        instead: their shape.

    Returns:
        A line that says which of the two it is.
    """
    if name is None:
        save_random(instead, folder)
        return f"random weights of {instead.name}'s shape"
    try:
        encoder = TextEncoder.load(find_base_model(name))
    except UserError as error:
        return f"{save_base(folder, None, instead)} ({error})"
    encoder.take_settings({"max_length": 64})
    encoder.save(folder)
    without_dropout(folder)
    return name


@torch.no_grad()
def save_noisy(base: Path, folder: Path, seed: int) -> None:
    """Save an expert whose task vector is noise, a fiftieth of every tensor's spread."""
    expert = TextEncoder.load(base)
    generator = torch.Generator().manual_seed(seed)
    for weight in expert.parameters():
        weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.02 * float(weight.std(correction=0)))
    expert.save(folder)


def noisy_vectors(encoder: TextEncoder, experts: int) -> dict[str, Tensor]:
    """Task vectors of so many such experts, where the encoder is: ``[N, *shape]`` per parameter that trains."""
    trained = {name: p.detach() for name, p in encoder.weights().items() if p.requires_grad}
    return {
        name: torch.randn(experts, *weight.shape, device=weight.device).mul_(0.02 * weight.std(correction=0))
        for name, weight in trained.items()
    }


def random_batches(shape: Shape, vocabulary: int, device: torch.device) -> list[TaskBatch]:
    """The micro-batches of a step on full-length pairs; tokens are drawn log-uniformly, much as words are frequent."""
    rows = shape.rows // shape.micro_batches
    torch.manual_seed(0)

    def texts() -> dict[str, Tensor]:
        ids = (vocabulary ** torch.rand(rows, shape.length)).long().clamp(max=vocabulary - 1).to(device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    distinct = torch.arange(2 * rows, device=device).view(2, rows)
    loss = LossConfig("infonce", 0.05)
    return [TaskBatch("pairs", loss, [texts(), texts()], distinct) for _ in range(shape.micro_batches)]
