"""The rows that positions are learned on, and that models are compared on."""

from dataclasses import dataclass, replace
from typing import Any

from datamodules import ProbeDataModule, SplitTask


@dataclass(frozen=True)
class ProbeRows:
    """The probe of a run.

    Args:
        tasks: the data sets, with the losses that they are probed with.
        arguments: of `ProbeDataModule`, ``tasks`` and ``loss`` aside.
    """

    tasks: tuple[SplitTask, ...]
    arguments: dict[str, Any]

    def key_content(self) -> Any:
        """Return what a result depends on that was learned or chosen on the probe."""
        return {
            "arguments": {key: value for key, value in self.arguments.items() if key != "num_workers"},
            "data": [[task.name, task.probe, task.validation] for task in self.tasks],
        }

    @property
    def names(self) -> list[str]:
        """The names of the data sets."""
        return [task.name for task in self.tasks]

    @property
    def weights(self) -> dict[str, float]:
        """Data set to its part of the objective."""
        found: dict[str, float] = self.arguments["task_weights"]
        return found

    @property
    def batch_size(self) -> int:
        """Rows per batch."""
        return int(self.arguments["batch_size"])

    @property
    def batches(self) -> int:
        """Batches of a pass over the rows that positions are learned on."""
        return int(self.arguments["size"]) // self.batch_size

    @property
    def validation_texts(self) -> int:
        """About how many texts a validation embeds."""
        return 2 * int(self.arguments["validation_size"])

    def data(self) -> ProbeDataModule:
        """Return the batches."""
        return ProbeDataModule(tasks=list(self.tasks), **self.arguments)

    def losses_on_probe(self) -> ProbeDataModule:
        """Return a data module whose validation rows are the probe rows, to take losses on them."""
        tasks = [replace(task, validation=task.probe) for task in self.tasks]
        return ProbeDataModule(tasks=tasks, **self.arguments | {"validation_size": self.arguments["size"]})
