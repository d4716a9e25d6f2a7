"""A model of a run: given as a folder, or made by a stage."""

from dataclasses import dataclass
from typing import Any

from lightning_app.stages.loading import Loading
from lightning_app.stages.stage_graph import Stage, StageGraph


@dataclass(frozen=True)
class Model:
    """A row of the final table; give one of `path` and `stage`.

    Args:
        name: as the table calls it.
        path: the folder or hub name, where the model was given.
        stage: what makes it, in the folder ``model`` of its result, where it was not.
    """

    name: str
    path: str | None = None
    stage: Stage | None = None

    @property
    def inputs(self) -> tuple[Stage, ...]:
        """The stages that one which reads this model depends on."""
        return () if self.stage is None else (self.stage,)

    def identity(self, loading: Loading) -> dict[str, Any] | None:
        """Return what tells a given model from others, for the key of a stage that reads it; a stage has its own."""
        return None if self.path is None else loading.identity(self.path)

    def folder(self, graph: StageGraph) -> str:
        """Return where the model lies, once its stage has run."""
        if self.stage is not None:
            return str(graph.folder(self.stage) / "model")
        assert self.path is not None
        return self.path
