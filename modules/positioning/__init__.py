"""A position between experts: the learnable numbers, the encoder that stands there, its objective and its end."""
