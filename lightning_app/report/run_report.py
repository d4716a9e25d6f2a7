"""Tables of a run in Markdown, as verbs print them: scores, rows, texts shared with tasks."""

from collections.abc import Mapping, Sequence

from datamodules import SplitTask
from datamodules.decontamination import Overlap
from lightning_app.report.rows_table import OVERLAP_LEGEND, data_table, shared_texts_table
from lightning_app.report.scores_table import scores_table
from modules.encoding.prompts import SidePrompts

__all__ = ["OVERLAP_LEGEND", "overlap_table", "rows_table", "score_table"]


def score_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Return models by tasks; the best of each column is bold.

    Args:
        scores: model to task to score.
    """
    return scores_table(scores).markdown()


def rows_table(data: Sequence[SplitTask], prompts: SidePrompts) -> str:
    """Return the data sets by what becomes of their rows, and what is to be said about them.

    Args:
        data: the data sets.
        prompts: of the base.
    """
    return data_table(data, prompts).markdown()


def overlap_table(overlaps: Mapping[str, Overlap]) -> str:
    """Return tasks by what their texts share with the training rows."""
    return shared_texts_table(overlaps).markdown()
