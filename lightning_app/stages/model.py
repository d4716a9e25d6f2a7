"""A model of a run: given as a folder, or made by a stage."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lightning_app.stages.model_loading import ModelLoading
from lightning_app.stages.stage import BESIDE_KEY, ResultFolders, Stage


@dataclass(frozen=True)
class Model:
    """A row of the final table; give one of `path` and `stage`.

    Args:
        name: of the row.
        path: the folder or hub name, where the model was given.
        stage: the stage that makes it, in the folder `part` of its result, where it was not.
        part: a folder of the stage's result.
        loading: how a given model is loaded.
    """

    name: str = field(metadata=BESIDE_KEY)
    path: str | None = None
    stage: Stage | None = None
    part: str = "model"
    loading: ModelLoading = field(default=ModelLoading(), metadata=BESIDE_KEY)

    @property
    def inputs(self) -> tuple[Stage, ...]:
        """The stages that a stage which reads this model depends on."""
        return () if self.stage is None else (self.stage,)

    def key_content(self) -> Any:
        """Return what tells the model from others: its whole identity, or the stage that makes it."""
        return self._identity if self.path is not None else [self.stage, self.part]

    def folder(self, graph: ResultFolders) -> str:
        """Return where the model lies, once its stage has run."""
        if self.stage is not None:
            return str(graph.folder(self.stage) / self.part)
        assert self.path is not None
        return self.path

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """The identity of a given model, taken once for all stages that are made of it."""
        assert self.path is not None
        return self.loading.identity(self.path)
