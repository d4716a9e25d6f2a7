"""The files of a model folder, sorted by their content: weights, an adapter, settings, code, or unknown."""

from pathlib import Path

from modules.checkpoints.checkpoint_io import INDEX, stored_weights
from modules.checkpoints.lora import CONFIG, WEIGHTS
from modules.checkpoints.settings_files import rule_of
from modules.checkpoints.st_folder import st_modules

HARMLESS_SUFFIXES = {
    ".md", ".rst", ".pdf", ".html", ".csv", ".tsv", ".log", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp",
    ".bin", ".pt", ".pth", ".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".pyc", ".bak", ".orig", ".tmp",
}  # fmt: skip
"""Suffixes of files that change nothing that a folder's model computes: texts about it, pictures, backups, and weights
in formats that are never read here."""

HARMLESS_FILES = {"license", "license.txt", "notice", "notice.txt", "trainer_state.json", "merge.json", "lineage.json"}
"""Names, in lower case, of files on the origin or the licence of weights."""

HARMLESS_FOLDERS = {"statistics", "onnx", "openvino", "runs", "logs", "eval", "images", "__pycache__"}

OF_THE_MODEL = ("modules.json", "config_sentence_transformers.json")
"""Files that lie in the model's folder, wherever its modules lie."""

Files = dict[str, dict[str, Path]]
"""Kind (``adapter``, ``settings``, ``code``, ``other``) to place to path."""


def sort_files(folder: Path) -> Files:
    """Return all files beside the weights of a model folder that can change what the model computes.

    The place of a file in a module is its name, and before it the folder of every module but the first, which older
    versions of sentence-transformers keep in a folder, too. That of any other file is its path.
    """
    homes = module_places(folder)
    weights = set(weight_places(folder))
    files: Files = {"adapter": {}, "settings": {}, "code": {}, "other": {}}
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder)
        if file in weights or not file.is_file() or not _matters(path):
            continue
        home = homes.get(file.parent)
        place = path.as_posix() if home is None else home + file.name
        if file.parent == folder if file.name in OF_THE_MODEL else home is not None and rule_of(place):
            files["settings"][place] = file
        elif home is not None and file.name in (CONFIG, WEIGHTS):
            files["adapter"][place] = file
        elif home is None or file.name != INDEX:  # which says only where tensors are
            files["code" if file.suffix == ".py" else "other"][path.as_posix()] = file
    return files


def weight_places(folder: Path) -> dict[Path, str]:
    """Map the files of weights of all modules to the prefix of their tensors' names."""
    return {file: place for home, place in module_places(folder).items() for file in stored_weights(home)}


def module_places(folder: Path) -> dict[Path, str]:
    """Map the folder of every module to the prefix of its files and tensors: empty for the first module."""
    modules = [path for _, path in st_modules(folder)] or [folder]
    return {path: "" if path == modules[0] else f"{path.relative_to(folder).as_posix()}/" for path in modules}


def _matters(path: Path) -> bool:
    """Return whether a file, by its path in the folder, can change what the model computes."""
    if any(part.startswith(".") for part in path.parts) or path.name.endswith("~"):
        return False
    if any(part.lower() in HARMLESS_FOLDERS or part.startswith("checkpoint-") for part in path.parts[:-1]):
        return False
    return path.suffix.lower() not in HARMLESS_SUFFIXES and path.name.lower() not in HARMLESS_FILES
