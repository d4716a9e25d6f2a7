"""A folder that holds an adapter only, as the whole model that it makes of its base."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.checkpoint_io import INDEX, weight_files
from modules.checkpoints.checkpoint_layout import read_layout, weighted_modules
from modules.checkpoints.lora import CONFIG, Adapter
from modules.checkpoints.model_settings import copy_settings
from modules.checkpoints.st_folder import backbone_folder, is_st_folder
from modules.checkpoints.text_settings import Pipeline, text_settings
from modules.errors import UserError
from modules.json_files import read_json


class AdapterFolder:
    """A whole model's folder for an adapter: its own settings around the weights of its base, which are linked.

    Args:
        adapter: the folder with ``adapter_config.json``, of PEFT or of sentence-transformers.
        trust_remote_code: fetch the base's own code, too.

    Raises:
        UserError: its base is not named, or not found.

    Example:
        >>> whole = AdapterFolder(Path("runs/lora"))
        >>> encoder = TextEncoder(load_pipeline(whole.folder), whole.folder)
        >>> whole.add_to(encoder.weights())
    """

    def __init__(self, adapter: Path, trust_remote_code: bool = False) -> None:
        name = read_json(adapter / CONFIG).get("base_model_name_or_path")
        if not name:
            raise UserError(f"{adapter / CONFIG} does not name the model that it adapts: set base_model_name_or_path")
        self.adapter = adapter
        self.base = find_base_model(name, code=trust_remote_code)
        self._directory = TemporaryDirectory(prefix="adapted-")  # removed with this object
        self.folder = Path(self._directory.name)
        self._assemble()

    def _assemble(self) -> None:
        own = self.adapter if is_st_folder(self.adapter) else self.base
        copy_settings(self.base, Pipeline(own, text_settings(own, self.base)), self.folder, None)
        first = backbone_folder(self.base)
        _link_weights(first, self.folder / first.relative_to(self.base))
        for part in weighted_modules(own):
            if own / part != backbone_folder(own):
                _link_weights(own / part, self.folder / part)

    @torch.no_grad()
    def add_to(self, weights: Mapping[str, Tensor]) -> None:
        """Add the adapter to the base's weights.

        Args:
            weights: by canonical name; changed in place.
        """
        with closing(read_layout(self.folder)) as layout:
            adapter = Adapter(self.adapter, layout.weights, f"adapter {self.adapter}")
            for name, weight in weights.items():
                vector = torch.empty(weight.shape)
                adapter.read(name, weight.float(), vector)
                weight += vector.to(weight)


def _link_weights(source: Path, target: Path) -> None:
    files = weight_files(source)
    for file in [*files, *([source / INDEX] if len(files) > 1 or (source / INDEX).is_file() else [])]:
        (target / file.name).symlink_to(file.resolve())
