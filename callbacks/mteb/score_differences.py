"""Differences of two models on an MTEB task, with the paired bootstrap over its examples."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from callbacks.mteb.example_scores import ExampleScores, is_sts, rows_of, subset_splits
from modules.bootstrap import mean_differences, spearman_differences

if TYPE_CHECKING:
    from mteb import AbsTask


def resampled_differences(
    task: "AbsTask", a: ExampleScores, b: ExampleScores, seed: int = 0
) -> NDArray[np.float64] | None:
    """Return resampled differences of the main scores x 100, ``b`` minus ``a``: ``[resamples]``; None: not known.

    Examples are drawn anew within each subset and split of the task, whose means are then averaged as mteb does. Of a
    classification task that are the texts to classify; the training rows that mteb draws for each classifier stay.

    Args:
        task: with its data.
        a: example scores of one model.
        b: example scores of the other.
        seed: of the draws; those of two tasks are independent where their seeds are far from equal.
    """
    if not all(a.get(part) and b.get(part) for part in subset_splits(task)):
        return None
    differences = []
    for number, part in enumerate(sorted(subset_splits(task))):
        if is_sts(task):
            gold = rows_of(task, part)["score"]
            differences.append(spearman_differences(gold, a[part], b[part], seed=seed + number))
        else:
            differences.append(mean_differences(a[part], b[part], seed=seed + number))
    return 100 * np.mean(differences, axis=0)
