"""The model card of a merged or trained model, as the Hugging Face hub reads it."""
