"""The description of a data set in a recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal

from datamodules.sources.file_rows import suffix_of
from modules.errors import UserError
from modules.losses.task_batch import LossConfig

PYTHON_DOCS = "python_docs"


@dataclass(frozen=True)
class DataSource:
    """The source of the rows of a data set, and how they are used.

    A row is a pair (``anchor``, ``positive`` and any number of negatives, in ``negative``, or ``negative_1``,
    ``negative_2``, ...), a graded pair (``sentence1``, ``sentence2``, ``score``) or a labelled text (``text``,
    ``label``). Columns that are named otherwise are given in ``columns``. Pairs are also found as ``query`` or
    ``question`` in place of ``anchor``, ``pos``, ``positives`` or ``answer`` in place of ``positive``, and ``neg`` or
    ``negatives`` in place of ``negative`` (FlagEmbedding's format is ``query``, ``pos``, ``neg``), where there is no
    column of the first name and one of the others only. A cell of positives or negatives holds a text or a list of
    texts: a row with several positives is a pair for each, and rows may have different numbers of negatives.

    Args:
        source: ``python_docs``; the path of a file: JSON lines (.jsonl), a JSON list (.json), CSV (.csv), TSV (.tsv),
            each also compressed (.gz, .zst), Parquet (.parquet) or Arrow (.arrow, .feather); of a folder of such files,
            or of one that ``datasets`` saved with ``save_to_disk``; or a hub name ``org/name``.
        task: of python_docs: ``retrieval``, ``relatedness`` or ``classification``.
        config: of a hub data set that has several.
        split: of a hub data set, and of a folder that has several.
        revision: of a hub data set: a branch, tag or commit; null: the newest.
        columns: expected column -> column of the source, for columns that are named otherwise. ``group``, if there is
            one, says which rows belong together when some are held out. ``instruction`` is the prompt of its row: of
            the anchor, or of every text of graded and labelled rows; ``document_instruction`` that of positive and
            negatives. Both are put before the text as they are, and win over ``prompts``.
        prompts: text column -> prefix; negatives take that of ``positive`` if none is given. The other columns have the
            prompts of the model: anchors as queries, positives and negatives as documents, all else its default.
        limit: keep this many rows, drawn with a fixed seed. A hub data set is streamed for it, not downloaded whole.
        min_score: keep the rows whose ``score``, as the source has it, is at least this.
        score_range: the least and the largest score there may be, ``[0, 5]`` say; scores are rescaled from it to 0 to
            1. null: they lie in 0 to 1.
        on_bad_row: ``stop``: a row that cannot be used is an error, with file and line. ``skip``: it is left out, and
            counted with the reason. A file that is damaged as a whole is an error in any case.
        share: relative number of batches in joint training; None: in proportion to the rows.
        loss: None: the loss of the recipe.
        name: what the data set is called; empty: derived from the source.
    """

    source: str
    task: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: dict[str, str] | None = None
    prompts: dict[str, str] | None = None
    limit: int | None = None
    min_score: float | None = None
    score_range: tuple[float, float] | None = None
    on_bad_row: Literal["stop", "skip"] = "stop"
    share: float | None = None
    loss: LossConfig | None = None
    name: str = ""

    def __post_init__(self) -> None:
        """Derive the name: task of python_docs, file (its folder for ``train``), or last part of a hub name."""
        if not self.name:
            object.__setattr__(self, "name", self._derived_name())

    def _derived_name(self) -> str:
        if self.source == PYTHON_DOCS:
            return self.task or self.source
        suffix = suffix_of(self.source)
        path = Path(self.source.removesuffix(suffix))
        if suffix:
            return path.parent.name if path.name == "train" and path.parent.name else path.name
        return f"{path.name}-{self.config}" if self.config else path.name

    def check(self) -> None:
        """Look at the options that can be wrong whatever the rows are.

        Raises:
            UserError: one is.
        """
        if self.limit is not None and self.limit < 1:
            raise UserError(f"{self.name}: limit is {self.limit}; it must be at least 1")
        if self.on_bad_row not in ("stop", "skip"):
            raise UserError(f"{self.name}: on_bad_row is {self.on_bad_row!r}; set it to stop or skip")
        if self.score_range is not None and not _is_range(self.score_range):
            raise UserError(f"{self.name}: score_range is {self.score_range}; give two numbers, the lower one first")


def _is_range(span: Sequence[float]) -> bool:
    return len(span) == 2 and -inf < span[0] < span[1] < inf
