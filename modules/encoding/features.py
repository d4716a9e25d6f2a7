"""What a tokenizer gives and an encoder takes."""

from torch import Tensor

Features = dict[str, Tensor]
"""Tokenised texts: ``input_ids`` and ``attention_mask``, both ``[batch, length]``."""
