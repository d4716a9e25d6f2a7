"""A look at whether the Hugging Face hub answers."""

import os
from threading import Thread
from urllib.request import urlopen

SECONDS = 3.0
"""How long the hub may take to answer."""


def endpoint() -> str:
    """Return the address of the hub."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def offline_by() -> str | None:
    """Return the environment variable that tells the libraries to leave the hub alone; None: none does."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next((name for name in names if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")), None)


def hub_answers(seconds: float = SECONDS) -> bool:
    """Return whether the hub answers in time.

    Args:
        seconds: to wait.
    """
    answers: list[bool] = []
    # In a thread of its own, because looking up a name has no timeout.
    asking = Thread(target=lambda: answers.append(_asked(seconds)), daemon=True)
    asking.start()
    asking.join(seconds)
    return answers == [True]


def _asked(seconds: float) -> bool:
    try:
        urlopen(f"{endpoint()}/api/models?limit=1", timeout=seconds).close()
    except (OSError, ValueError):  # not reached, refused by what stands between, or no address
        return False
    return True
