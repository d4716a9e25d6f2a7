"""The identity of a model, which tells it from every other: a hash per part of its folder."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modules.checkpoints.base_model import file_sha256, find_base_model
from modules.checkpoints.checkpoint_layout import BUFFERS
from modules.checkpoints.lora import CONFIG
from modules.checkpoints.model_files import Files, sort_files, weight_places
from modules.checkpoints.settings_files import PARTS, settings_hashes
from modules.checkpoints.tensor_hashes import TensorHash, hash_tensors
from modules.errors import UserError
from modules.json_files import json_sha256, read_json

NOT_OF_THE_ADAPTER = ("base_model_name_or_path", "auto_mapping", "inference_mode", "peft_version")
"""Keys of an adapter's config that say where it comes from; the base that it names counts by its identity."""


@dataclass(frozen=True)
class Identity:
    """The content of a model folder, as the sha256 of each part.

    Args:
        weights: the tensors of all modules by name, whatever files they lie in; an adapter's are in `adapter`.
        tokenizer: all settings that make tokens of a text, but for their number.
        pipeline: modules, their settings and the backbone's config, and the model's own code.
        prompts: the prompts, with the name of the default prompt.
        length: the number of tokens kept of a text, and of numbers kept of an embedding.
        adapter: config and factors, with the identity of the model that it adapts; None for a whole model.
        other: files that are not known to belong to another part, nor known to be harmless; and buffers, which some
            versions save and others do not.

    Example:
        >>> a, b = identity("models/a"), identity("models/b")
        >>> a.weights == b.weights, a.prompts == b.prompts
        (True, False)
    """

    weights: str
    tokenizer: str
    pipeline: str
    prompts: str
    length: str
    adapter: str | None
    other: str

    def digest(self) -> str:
        """Return one sha256 of all parts."""
        return json_sha256(asdict(self))

    def __str__(self) -> str:
        return self.digest()


def identity(model: str | Path) -> Identity:
    """Return the identity of a model.

    A process hashes weights and other large files once, until their size or time changes.

    Args:
        model: a folder, of a whole model or of an adapter; as a string also a hub name.

    Raises:
        UserError: there is no such model, or a file of it is damaged.
    """
    return _identity(model, ())


def weights_identity(model: str | Path) -> str:
    """Return the sha256 of a model's trained weights, by which lineage, statistics and records know the model.

    It is `Identity.weights`; for an adapter it includes config and factors, but not the model that it adapts.

    Args:
        model: as for `identity`.
    """
    folder = _folder(model)
    adapter = _own_adapter(sort_files(folder)["adapter"])
    weights = _weights(folder)
    return weights if adapter is None else json_sha256([weights, adapter])


def settings_identity(folder: Path) -> dict[str, str]:
    """Return the parts ``tokenizer``, ``pipeline``, ``prompts`` and ``length``, for which no weights are read."""
    return _settings(sort_files(folder))


def _identity(model: str | Path, above: tuple[Path, ...]) -> Identity:
    folder = _folder(model)
    files = sort_files(folder)
    return Identity(
        weights=_weights(folder),
        adapter=_adapter(files["adapter"], (*above, folder.resolve())),
        other=_other(folder, files),
        **_settings(files),
    )


def _folder(model: str | Path) -> Path:
    return model if isinstance(model, Path) else find_base_model(model)


def _weights(folder: Path) -> str:
    return json_sha256([tensor for tensor in _tensors(folder) if not BUFFERS.search(tensor[0])])


def _other(folder: Path, files: Files) -> str:
    buffers = [tensor for tensor in _tensors(folder) if BUFFERS.search(tensor[0])]
    return json_sha256([buffers, {place: file_sha256(file) for place, file in files["other"].items()}])


def _tensors(folder: Path) -> list[tuple[str, TensorHash]]:
    """Return name and hash of the tensors of all modules."""
    return sorted(
        (place + key, tensor)
        for file, place in weight_places(folder).items()
        for key, tensor in hash_tensors(file).items()
    )


def _settings(files: Files) -> dict[str, str]:
    parts: dict[str, dict[str, str]] = {part: {} for part in PARTS}
    for place, file in files["settings"].items():
        for part, sha256 in settings_hashes(place, file).items():
            parts[part][place] = sha256
    for place, file in files["code"].items():
        parts["pipeline"][place] = file_sha256(file)
    return {part: json_sha256(hashes) for part, hashes in parts.items()}


def _adapter(files: Mapping[str, Path], above: tuple[Path, ...]) -> str | None:
    """Return the hash of an adapter and of the model that it adapts; None where there is no adapter.

    Args:
        files: of the adapter.
        above: folders of the adapters that are laid on this one, its own included.
    """
    own = _own_adapter(files)
    if own is None:
        return None
    base = next(
        (read_json(file).get("base_model_name_or_path") for file in files.values() if file.name == CONFIG), None
    )
    return json_sha256([own, base and _base(base, above)])


def _base(name: str, above: tuple[Path, ...]) -> str:
    """Return the identity of the model that an adapter adapts; its name where it is not found."""
    try:
        folder = find_base_model(name)
    except UserError:
        return name
    return name if folder.resolve() in above else _identity(folder, above).digest()


def _own_adapter(files: Mapping[str, Path]) -> str | None:
    """Return the hash of an adapter's config and factors, without the model that it adapts."""
    parts = {place: _adapter_file(file) for place, file in files.items()}
    return json_sha256(parts) if parts else None


def _adapter_file(file: Path) -> Any:
    if file.name != CONFIG:
        return hash_tensors(file)
    return {key: value for key, value in read_json(file).items() if key not in NOT_OF_THE_ADAPTER}
