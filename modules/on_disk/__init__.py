"""Models merged on disk, from safetensors to safetensors; builds no model and imports no transformers."""
