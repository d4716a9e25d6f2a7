"""The screen without what libraries say of themselves, and in the form that the user wants."""

import json
import logging
import warnings

import transformers

from lightning_app.stages.screen import Style

CHATTER = (
    "GPU available",
    "TPU available",
    "💡 Tip",
    "Loading `train_dataloader` to estimate",
    "`Trainer.fit` stopped",
)
"""What Lightning would say anew at every stage."""

REMARKS = (
    ".*does not have many workers.*",
    r".*module\(s\) in eval mode at the start of training.*",  # a position is trained in evaluation mode
    ".*Metric `SpearmanCorrcoef` will save all targets.*",
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning's own, of a newer torch
)
"""Warnings about what is meant to be so."""

LOGGERS = ("lightning.pytorch", "lightning.fabric")
"""The loggers of everything that is said on the main process."""


def quiet_libraries(style: Style = "text") -> None:
    """Keep the screen to what a user of this application wants to see.

    Args:
        style: of what is said; ``json`` makes an object of every line, ``quiet`` leaves warnings only.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if style == "quiet":
            logger.setLevel(logging.WARNING)
        for handler in logger.handlers:
            handler.addFilter(lambda record: not record.getMessage().startswith(CHATTER))
            if style == "json":
                handler.setFormatter(JsonLines())
    for message in REMARKS:
        warnings.filterwarnings("ignore", message)


class JsonLines(logging.Formatter):
    """Lines of JSON, each an object with ``event`` and ``text``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message as one line of JSON."""
        return json.dumps({"event": "said", "level": record.levelname.lower(), "text": record.getMessage().strip()})
