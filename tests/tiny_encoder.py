"""A text encoder small enough for any test, built from a config."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from modules.checkpoints.st_folder import EncoderConfig
from modules.encoding.text_encoder import TextEncoder

WORDS = ["a", "the", "red", "blue", "cat", "dog", "ball", "sky", "sits", "runs", "is", "query", ":", "document"]


def tiny_encoder(seed: int = 0, config: EncoderConfig | None = None) -> TextEncoder:
    """A two-layer BERT of width 16 that knows ``WORDS``; another seed gives other weights."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(seed)
    shape = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    return TextEncoder(BertModel(shape, add_pooling_layer=False), tokenizer, config or EncoderConfig(max_length=32))
