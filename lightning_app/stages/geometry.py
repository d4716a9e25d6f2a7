"""The stage that measures the geometry of task vectors."""

from dataclasses import dataclass
from pathlib import Path

import torch

from lightning_app.stages.model import Model
from lightning_app.stages.model_loading import is_plain
from lightning_app.stages.stage import ResultFolders, Stage
from modules.distributed import is_main_process
from modules.json_files import read_json, write_json
from modules.positioning.task_vectors import gram_matrices, load_task_vectors

GRAM = "gram.json"


@dataclass(frozen=True)
class Geometry(Stage):
    """The Gram matrix of the task vectors of models.

    Args:
        name: of the stage.
        start: the model that task vectors are taken against.
        models: N of them.
    """

    kind = "geometry"

    start: Model
    models: tuple[Model, ...]

    def run(self, folder: Path, graph: ResultFolders) -> None:
        """Take the Gram matrix."""
        if not is_main_process():
            return
        base, loading = self.start.folder(graph), self.start.loading
        folders = {str(i): model.folder(graph) for i, model in enumerate(self.models)}
        # Whose prompts a merge would have changes no task vector.
        settings_of = next(iter(folders)) if is_plain(base) else "base"
        pooling = loading.options(base)["pooling"]
        vectors = load_task_vectors(loading.load(base), folders, settings_of, pooling, loading.trust_remote_code)
        write_json(folder / GRAM, gram_matrices(vectors, dict.fromkeys(vectors, "model"))[0].tolist())


def read_gram(folder: Path) -> torch.Tensor:
    """Return what `Geometry` wrote: ``[N, N]`` float64."""
    return torch.tensor(read_json(folder / GRAM), dtype=torch.float64)
