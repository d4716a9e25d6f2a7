"""The stage that scores any model on the probe-validation rows: what a study would choose by, if not by the loss."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional import spearman_corrcoef

from datamodules import SplitTask, TaskData
from datamodules.collate import Collator
from lightning_app.stages.model import Model
from lightning_app.stages.probe_rows import ProbeRows
from lightning_app.stages.stage import ResultFolders, Stage
from lightning_app.stages.trainer_settings import TrainerSettings
from modules.distributed import is_main_process
from modules.encoding.by_length import embed_by_length
from modules.encoding.prompts import prompts_by_side
from modules.encoding.text_encoder import TextEncoder
from modules.evaluation_mode import evaluation_mode
from modules.full_precision import float32_or_better
from modules.json_files import read_json, write_json
from modules.losses.cosines import paired_cosines
from modules.losses.info_nce import InfoNce
from modules.losses.task_batch import TaskBatch

FILE = "probe-scores.json"


@dataclass(frozen=True)
class ProbeScore(Stage):
    """The score of a model on the probe-validation rows of each data set, which is what its kind of rows is judged by.

    Graded pairs: Spearman's correlation of cosines and scores. Pairs: the mean reciprocal rank of the right text among
    all texts of the rows. Labelled texts: the accuracy of the nearest centroid of a label's probe rows.

    Args:
        name: of the model.
        model: that is scored.
        probe: the rows.
        trainer: says on which device; every process scores all rows.
    """

    kind = "probe_score"

    model: Model
    probe: ProbeRows
    trainer: TrainerSettings

    @property
    def texts(self) -> int:
        """About how many texts pass through the model."""
        return self.probe.validation_texts

    def run(self, folder: Path, graph: ResultFolders) -> None:
        """Score the model."""
        encoder = self.model.loading.load(self.model.folder(graph)).to(self.trainer.device)
        data = self.probe.data()
        data.setup()
        found = {split.name: score_of(encoder, split, self.probe.arguments["max_length"]) for split in data.splits}
        if is_main_process():
            write_json(folder / FILE, found)


def read_probe_scores(folder: Path) -> dict[str, float]:
    """Return data set to score, from 0 (Spearman's: -1) to 1."""
    found: dict[str, float] = read_json(folder / FILE)
    return found


def score_of(encoder: TextEncoder, task: SplitTask, max_length: int | None) -> float:
    """Return the score of a model on the validation rows of a data set; see `ProbeScore`.

    Args:
        encoder: the model.
        task: the data set; the probe rows of labelled texts are embedded, too.
        max_length: tokens of a text; None: the model's own limit.
    """
    batch, embeddings = _embed(encoder, task.validation, max_length)
    if task.validation.kind == "pairs":
        (ranks,) = InfoNce(temperature=1.0).observations(embeddings, batch)["mrr"]
        return float(ranks.mean())
    assert batch.target is not None
    if task.validation.kind == "graded":
        return float(spearman_corrcoef(paired_cosines(*embeddings), batch.target))
    known, (rows,) = _embed(encoder, task.probe, max_length)
    assert known.target is not None
    return nearest_centroid_accuracy(rows, known.target, embeddings[0], batch.target)


def nearest_centroid_accuracy(known: Tensor, labels: Tensor, texts: Tensor, expected: Tensor) -> float:
    """Return the fraction of texts that have the label of the centroid with the largest cosine.

    Args:
        known: ``[rows, dim]``, embeddings whose normalised means per label are the centroids.
        labels: ``[rows]`` int64.
        texts: ``[texts, dim]``.
        expected: ``[texts]`` int64, their labels; a text whose label is not among `labels` is not found.
    """
    names, places = labels.unique(return_inverse=True)
    sums = known.new_zeros(len(names), known.shape[1]).index_add(0, places, F.normalize(known))
    found = names[(F.normalize(texts) @ F.normalize(sums).T).argmax(1)]
    return float((found == expected).float().mean())


@torch.no_grad()
def _embed(encoder: TextEncoder, rows: TaskData, max_length: int | None) -> tuple[TaskBatch, list[Tensor]]:
    """Embed all rows as one batch, so that each is compared with all others: one ``[rows, dim]`` per text column."""
    prompted = rows.with_prompts(prompts_by_side(encoder.prompts, encoder.default_prompt_name))
    collator = Collator([prompted], encoder.tokenization(max_length))
    batch = collator([(0, row) for row in range(len(rows))]).to(encoder.device)
    with evaluation_mode(encoder):
        return batch, [float32_or_better(embed_by_length(encoder, features)) for features in batch.features]
