"""The folder of the whole model that an adapter makes of its base."""

import shutil
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.checkpoint_io import weight_files
from modules.checkpoints.checkpoint_layout import Layout, read_layout, weighted_modules
from modules.checkpoints.lora import CONFIG, Adapter
from modules.checkpoints.model_settings import copy_settings
from modules.checkpoints.st_folder import backbone_folder, is_st_folder
from modules.checkpoints.text_settings import Pipeline, text_settings
from modules.encoding.saving import write_weights
from modules.errors import UserError
from modules.json_files import read_json


class AdapterFolder:
    """A folder of a whole model, with the weights of an adapter's base and the adapter's products added to them.

    Settings are the adapter's where it is a sentence-transformers folder, else the base's. The folder is temporary,
    and removed with this object.

    Args:
        adapter: the folder with ``adapter_config.json``, of PEFT or of sentence-transformers.
        trust_remote_code: fetch the base's own code, too.

    Raises:
        UserError: the adapter does not name its base, the base is not found, or the adapter does not fit it.

    Example:
        >>> whole = AdapterFolder(Path("runs/lora"))
        >>> pipeline = load_pipeline(whole.folder)
    """

    def __init__(self, adapter: Path, trust_remote_code: bool = False) -> None:
        name = read_json(adapter / CONFIG).get("base_model_name_or_path")
        if not name:
            raise UserError(f"{adapter / CONFIG} does not name the model that it adapts: set base_model_name_or_path")
        base = find_base_model(name, code=trust_remote_code)
        self._directory = TemporaryDirectory(prefix="adapted-")
        self.folder = Path(self._directory.name)
        own = adapter if is_st_folder(adapter) else base
        copy_settings(base, Pipeline(own, text_settings(own, base)), self.folder, "float32")
        with closing(read_layout(base)) as layout:
            write_weights(layout, _adapted(adapter, layout), self.folder)
        for part in weighted_modules(own):  # a Dense layer beside the adapter
            if own == adapter and own / part != backbone_folder(own):
                for file in weight_files(own / part):
                    shutil.copyfile(file, self.folder / part / file.name)


def _adapted(adapter: Path, layout: Layout) -> dict[str, Tensor]:
    """Return the base's weights with the adapter's products added, in float32."""
    found = {}
    products = Adapter(adapter, layout.weights, f"adapter {adapter}")
    for name, weight in layout.weights.items():
        found[name] = weight.file.read(weight.key).float()
        vector = torch.empty(found[name].shape)
        products.read(name, partial(found.__getitem__, name), vector)
        found[name] = found[name] + vector
    return found
