"""From texts to embeddings: the encoder, tokens made once, batches without padding."""
