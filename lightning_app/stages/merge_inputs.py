"""The models that a merge is made of, and the module that holds them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from datamodules import SplitTask
from datamodules.task_datamodule import first_batches
from lightning_app.stages.model import Model
from lightning_app.stages.stage import BESIDE_KEY, ResultFolders
from modules import MergeMethod, MergeModule, UserError
from modules.distributed import barrier, is_main_process
from modules.encoding.prompts import Side, describe_prompts, folder_prompts, prompts_by_side
from modules.merging.collect_statistics import collect_statistics


@dataclass(frozen=True)
class TrainedOn:
    """The rows that an expert was trained on; they are part of its own key.

    Args:
        tasks: the data sets.
        batch_size: rows per batch.
        max_length: tokens per text.
    """

    tasks: tuple[SplitTask, ...]
    batch_size: int
    max_length: int | None

    def __len__(self) -> int:
        """Return the number of rows."""
        return sum(len(task.expert) for task in self.tasks)


@dataclass(frozen=True)
class MergeInputs:
    """The models that a merge is between, and how they are combined.

    Args:
        start: what task vectors are taken against.
        experts: name and model, in the order of the merge.
        method: how task vectors are combined.
        granularity: see `MergeModule`.
        signed: see `MergeModule`.
        settings_of: see `MergeModule`.
        prompts_of_rows: whether the merge has the prompts that its experts were trained with.
        reference: losses are relative to this model's; None: to those of `start`.
        trained_on: name of each expert to its rows, where they are known.
        allow_suspicious: see `MergeModule`.
    """

    start: Model
    experts: tuple[tuple[str, Model], ...]
    method: MergeMethod
    granularity: int | str = "model"
    signed: bool = False
    settings_of: str | None = None
    prompts_of_rows: bool = False
    reference: Model | None = None
    trained_on: Mapping[str, TrainedOn] = field(default_factory=dict, metadata=BESIDE_KEY)
    allow_suspicious: bool = field(default=False, metadata=BESIDE_KEY)

    @property
    def names(self) -> list[str]:
        """The names of the experts."""
        return [name for name, _ in self.experts]

    def module(self, graph: ResultFolders, **options: Any) -> MergeModule:
        """Return the experts and their start in memory, at the start of a position; they must be made already.

        Args:
            graph: finds the models.
            options: further arguments of `MergeModule`, which win.
        """
        self._collect_statistics(graph)
        start = self.start.folder(graph)
        arguments: dict[str, Any] = {
            "method": self.method,
            "granularity": self.granularity,
            "signed": self.signed,
            "settings_of": self.settings_of,
            "allow_suspicious": self.allow_suspicious,
            **self.start.loading.options(start),
        }
        folders = {name: model.folder(graph) for name, model in self.experts}
        module = MergeModule(start, folders, **arguments | options)
        if self.reference is not None:
            reference = self.reference.folder(graph)
            module.relative_to(reference, pooling=self.reference.loading.options(reference)["pooling"])
        if self.prompts_of_rows:
            self._take_prompts(module, graph)
        return module

    def row_counts(self) -> list[int]:
        """Return how many rows each expert was trained on.

        Raises:
            UserError: of one that is not known.
        """
        return [len(self._rows_of(name, "a weighting by size")) for name in self.names]

    def _rows_of(self, expert: str, what: str) -> TrainedOn:
        if expert not in self.trained_on:
            raise UserError(f"{what} needs the training rows of '{expert}', which is a folder or a merge")
        return self.trained_on[expert]

    def check_statistics(self) -> None:
        """Refuse a method that needs statistics of rows that are not known.

        Raises:
            UserError: it does.
        """
        if self.method.statistics is not None:
            for name in self.names:
                self._rows_of(name, type(self.method).__name__)

    def _collect_statistics(self, graph: ResultFolders) -> None:
        """Collect what the method needs of every expert's own rows, beside the expert, if it is not there."""
        method = self.method
        if method.statistics is None:
            return
        for name, expert in self.experts:
            rows = self._rows_of(name, type(method).__name__)
            if is_main_process():
                folder = expert.folder(graph)
                encoder = expert.loading.load(folder)
                prompts = prompts_by_side(encoder.prompts, encoder.default_prompt_name)
                parts = [task.expert.with_prompts(prompts) for task in rows.tasks]
                tokenize = encoder.tokenization(rows.max_length)
                batches = partial(first_batches, parts, method.rows, rows.batch_size, tokenize)
                cut = (method.rows, rows.batch_size, rows.max_length)
                fingerprint = "-".join([*map(str, cut), *(part.fingerprint() for part in parts)])
                collect_statistics(method.statistics, encoder, folder, batches, fingerprint=fingerprint)
            barrier()

    def _take_prompts(self, module: MergeModule, graph: ResultFolders) -> None:
        """Have the merge name the prompts that its experts were trained with."""
        module.set_prompts(*folder_prompts(self.start.folder(graph)))
        data: dict[str, dict[Side, str | None]] = {}
        for name, model in self.experts:
            if name in self.trained_on:
                own = prompts_by_side(*folder_prompts(model.folder(graph)))
                tasks = self.trained_on[name].tasks
                data |= {task.name: task.expert.with_prompts(own).side_prompts() for task in tasks}
        module.take_prompts(data)
        said = describe_prompts(module.side_prompts)
        rank_zero_info(f"  prompts of the merge, by what its experts were trained with: {said}")
