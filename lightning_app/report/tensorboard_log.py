"""The entries of TensorBoard that come from no training: the recipe, scores of finished models, pictures of the report.

Each is written anew by every run, in the place of what the run before has written.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from lightning_app.stages.stage_graph import safe_name

if TYPE_CHECKING:  # matplotlib takes a second to import
    from lightning_app.report.pictures import Picture

REPORT = "report"
"""The run that has recipe and pictures."""

SCORES = "scores"
"""The folder that has a run for each scored model."""

RGBA = 4
"""The number of channels of the PNG files that matplotlib writes."""


def write_recipe(recipe: str, logs: Path) -> None:
    """Write the resolved recipe, in YAML, as the text ``recipe``."""
    with _writer(logs / REPORT, ".recipe") as writer:
        writer.add_text("recipe", f"```yaml\n{recipe}\n```")


def write_scores(scores: Mapping[str, Mapping[str, float]], logs: Path) -> None:
    """Write ``mteb/<task>`` of finished models, each model as a run of its own.

    Args:
        scores: model to task to main score x 100.
        logs: the folder that TensorBoard is started on.
    """
    for model, by_task in scores.items():
        with _writer(logs / SCORES / safe_name(model), ".scores") as writer:
            for task, score in by_task.items():
                writer.add_scalar(f"mteb/{task}", score)


def write_pictures(pictures: "Iterable[Picture]", logs: Path) -> None:
    """Write the figures of pictures, each under its name."""
    with _writer(logs / REPORT, ".pictures") as writer:
        for picture in pictures:
            value = Summary.Value(tag=picture.name, image=_image(picture))  # `add_figure` would draw the figure again
            writer.file_writer.add_summary(Summary(value=[value]))


def _image(picture: "Picture") -> Summary.Image:
    """Return the PNG file of a picture as TensorBoard keeps it."""
    width, height = picture.figure.canvas.get_width_height()
    return Summary.Image(width=width, height=height, colorspace=RGBA, encoded_image_string=picture.png)


def _writer(folder: Path, suffix: str) -> SummaryWriter:
    """Return a writer of a file with a suffix, after the files of earlier runs with that suffix are gone."""
    for file in folder.glob(f"*{suffix}"):
        file.unlink()
    return SummaryWriter(str(folder), filename_suffix=suffix)
