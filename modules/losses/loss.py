"""The base class of losses: the rows it needs, the loss of a batch and of a row, and the validation metrics.

Shapes: batch (rows of this process), dim.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, TypeVar

from torch import Tensor
from torchmetrics import Metric

from modules.distributed import Gather
from modules.losses.task_batch import Kind, LossConfig, TaskBatch

Metrics = Mapping[str, Callable[[], Metric]]
"""Name of each validation metric to the function that makes it."""


class Loss(ABC):
    """A loss of the embeddings of a batch; each is a class in a file of its own.

    Embeddings need not be normalised: the similarity is always the cosine. Whatever their precision, and under autocast
    too, losses and metrics are computed in float32 or better.

    Args:
        temperature: divides the cosine similarities.

    Attributes:
        name: the loss in recipes and reports.
        rows: the kind of rows that it needs.
        metrics: the validation metrics beside the loss.

    Example:
        Mean squared error of the cosine, in ``modules/losses/cosine_error.py``; one line of
        ``modules/losses/__init__.py`` imports it, and ``loss: {name: cosine_error}`` trains with it::

            @register
            class CosineError(Loss):
                name = "cosine_error"
                rows = "graded"
                metrics: ClassVar[Metrics] = {"error": MeanMetric}

                def batch_loss(self, embeddings, batch, gather):
                    return self._errors(embeddings, batch).mean()

                def row_loss(self, embeddings, batch, row):
                    return self._errors(embeddings, batch)[row]

                def observations(self, embeddings, batch):
                    return {"error": (self._errors(embeddings, batch),)}

                def _errors(self, embeddings, batch):
                    return (paired_cosines(*embeddings) - batch.target) ** 2
    """

    name: ClassVar[str]
    rows: ClassVar[Kind]
    metrics: ClassVar[Metrics]

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    @abstractmethod
    def batch_loss(self, embeddings: list[Tensor], batch: TaskBatch, gather: Gather) -> Tensor:
        """Return the loss of a batch.

        With `all_gather`, the mean of the losses over the processes is the loss of the whole batch on one process.

        Args:
            embeddings: one ``[batch, dim]`` per text column.
            batch: the rows.
            gather: `all_gather` compares with the rows of all processes, `local` with the rows of this one.

        Returns:
            A scalar.
        """

    @abstractmethod
    def row_loss(self, embeddings: list[Tensor], batch: TaskBatch, row: int) -> Tensor:
        """Return the loss of one row, whose gradient is the row's part in Fisher information.

        The mean of the gradients over the rows is the gradient of the batch, where each row is differentiated through
        its own first two columns only: the texts that a row is compared with are constant.

        Args:
            embeddings: one ``[batch, dim]`` per text column.
            batch: the rows, all of this process.
            row: its place in the batch.

        Returns:
            A scalar.
        """

    @abstractmethod
    def observations(self, embeddings: list[Tensor], batch: TaskBatch) -> dict[str, tuple[Tensor, ...]]:
        """Return the values that a batch adds to the metrics.

        Args:
            embeddings: one ``[batch, dim]`` per text column, without gradients.
            batch: the rows.

        Returns:
            Name of each of `metrics` to the arguments of its ``update``.
        """


LOSSES: dict[str, type[Loss]] = {}
"""Name of each registered loss to its class."""

FITTING: dict[Kind, str] = {"pairs": "infonce", "graded": "cosent", "labelled": "supcon"}
"""Kind of rows to the name of the loss that ``auto`` stands for."""

AnyLoss = TypeVar("AnyLoss", bound=type[Loss])


def register(loss: AnyLoss) -> AnyLoss:
    """Register a class of losses by its name."""
    assert loss.name not in LOSSES, f"two losses are called {loss.name!r}"
    LOSSES[loss.name] = loss
    return loss


def make_loss(config: LossConfig) -> Loss:
    """Return the loss that a config describes, whose name is not ``auto``."""
    return LOSSES[config.name](config.temperature)


def losses_for(rows: Kind) -> list[str]:
    """Return the names of the losses for a kind of rows, first the loss that ``auto`` stands for."""
    others = (name for name, loss in LOSSES.items() if loss.rows == rows and name != FITTING[rows])
    return [FITTING[rows], *others]
