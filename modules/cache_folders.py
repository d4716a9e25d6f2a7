"""The folders of caches that need no library to be found, by Hugging Face's rules; each can be deleted at any time."""

import os
from pathlib import Path


def hugging_face_home() -> Path:
    """Return the folder of all caches of Hugging Face's libraries."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{cache}/huggingface")).expanduser()


def angle_cache() -> Path:
    """Return the folder of the angles between models that merges on disk have measured."""
    return hugging_face_home() / "embedding-angles"
