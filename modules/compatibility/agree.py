"""Agreement of the models of a merge, on disk or in memory: the effect and the remedy of each difference.

Only folders are read, no model is built, so that the route on disk and the one in memory come to one verdict. Parts
that are equal in two identities (`modules.checkpoints.identity`) are compared no further; others are compared key by
key, because versions write one setting in several forms. Names and shapes of weights are compared by
`modules.checkpoints.checkpoint_layout.match_layout`, which both ask first.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modules.checkpoints.identity import settings_identity
from modules.checkpoints.portable import without_defaults
from modules.checkpoints.st_folder import backbone_folder, is_st_folder, pooling_modes, st_modules
from modules.checkpoints.text_settings import Pipeline, Settings, module_folder, text_settings
from modules.compatibility.config_differences import config_difference
from modules.compatibility.tokenizer_differences import reads_in_lower_case, tokenizer_difference
from modules.errors import UserError
from modules.json_files import read_json, shown


def agree(
    base: Path, experts: Mapping[str, Path], settings_of: str | None, say: Callable[[str], None] = print
) -> Pipeline:
    """Compare experts with the base and with each other.

    Args:
        base: folder of theta_0.
        experts: name to folder, of a model or an adapter; settings that a folder does not have are as in the base.
        settings_of: ``base`` or the name of the expert whose settings of texts are taken where they differ; None: they
            must agree.
        say: prints a line; harmless differences, and choices.

    Returns:
        The folder whose modules the merged model has, and its settings of texts.

    Raises:
        UserError: equal weights would compute otherwise, a text would become other tokens, or pipelines differ.
    """
    if settings_of not in (None, "base", *experts):
        raise UserError(f"settings_of is '{settings_of}'; it is base or one of {', '.join(experts)}")
    for name, folder in experts.items():
        _refuse_other_computation(backbone_folder(base), backbone_folder(folder), f"expert '{name}' ({folder})")
    speaking = {"base": base, **experts}
    speaking = {name: folder for name, folder in speaking.items() if is_st_folder(folder)}
    if not speaking:
        return Pipeline(base, text_settings(base, base))
    # A plain transformers base does not say how it pools; the experts made from it do.
    first = next(iter(speaking))
    standard = _called(first, speaking[first])
    if first != "base":
        say(f"modules, pooling, prompts and the longest text are those of {standard}; the base says nothing of them")
    for name, folder in speaking.items():
        _refuse_other_pipeline(speaking[first], standard, folder, _called(name, folder))
    return Pipeline(speaking[first], _chosen_settings(base, speaking, settings_of, say))


def _called(name: str, folder: Path) -> str:
    return "the base" if name == "base" else f"expert '{name}' ({folder})"


def _refuse_other_computation(base: Path, expert: Path, who: str) -> None:
    differing = _differing_parts(base, expert)
    if "pipeline" in differing:
        _refuse_other_config(base, expert, who)
        _refuse_other_code(base, expert, who)
    other = tokenizer_difference(base, expert) if "tokenizer" in differing else None
    if other is not None:
        raise UserError(f"{who} {other}; merge models that share a tokenizer")


def _differing_parts(one: Path, other: Path) -> set[str]:
    ours, theirs = settings_identity(one), settings_identity(other)
    return {part for part in ours if ours[part] != theirs[part]}


def _refuse_other_config(base: Path, expert: Path, who: str) -> None:
    found = config_difference(base, expert)
    if found is not None:
        key, ours, theirs = found
        raise UserError(
            f"{who} has {key} {shown(theirs)}, the base {shown(ours)}, so equal weights would compute otherwise; "
            "merge models of one architecture"
        )


def _refuse_other_code(base: Path, expert: Path, who: str) -> None:
    ours, theirs = _classes(base), _classes(expert)
    for key, name in theirs.items():
        if ours.get(key) != name:
            raise UserError(f"{who} computes with {key} {name}, the base with {ours.get(key, 'code of the library')}")
    for file in sorted(expert.glob("*.py")):
        if (base / file.name).is_file() and (base / file.name).read_bytes() != file.read_bytes():
            raise UserError(f"{who} has another {file.name} than the base; merge models that share their code")


def _classes(folder: Path) -> dict[str, str]:
    """Return the classes that a model brings along, wherever their code lies: ``AutoModel`` to ``modeling.Class``."""
    config = read_json(folder / "config.json", {})
    named = {key: (config.get("auto_map") or {}).get(key) for key in ("AutoConfig", "AutoModel")}
    return {key: name.rsplit("--", 1)[-1] for key, name in named.items() if name}


def _refuse_other_pipeline(base: Path, standard: str, folder: Path, who: str) -> None:
    if not _differing_parts(base, folder) & {"pipeline", "tokenizer"}:  # which may lower-case by itself
        return
    ours, theirs = pipeline_parts(base), pipeline_parts(folder)
    for part in dict.fromkeys([*ours, *theirs]):
        if ours.get(part) != theirs.get(part):
            raise UserError(
                f"{who} has {part} {shown(theirs.get(part))}, {standard} {shown(ours.get(part))}; they must agree"
            )


def _chosen_settings(base: Path, folders: Mapping[str, Path], name: str | None, say: Callable[[str], None]) -> Settings:
    """Return the settings that all models agree on, or the settings of the model that is named.

    Args:
        base: folder of theta_0.
        folders: name to folder of the models that have such settings.
        name: of the model whose settings are taken where models differ; None: they must agree.
        say: prints a line.

    Raises:
        UserError: models differ, and none of `folders` is named.
    """
    settings = {other: text_settings(folder, base) for other, folder in folders.items()}
    first, standard = next(iter(settings.items()))
    different = {
        key: other for other, found in settings.items() for key in standard if found[key] != standard[key]
    }  # key to the last model that differs in it
    if not different:
        return standard
    if name in settings:
        taken = ", ".join(f"{key} {shown(settings[name][key])}" for key in standard if key in different)
        say(f"{taken}: as settings_of says, that of {_called(name, folders[name])}")
        return settings[name]
    key, other = next(iter(different.items()))
    todo = f"choose whose the merge takes with --settings_of (settings_of in a recipe's model): {', '.join(folders)}"
    if name is not None:
        todo = f"settings_of is '{name}', whose folder says nothing of it: name one of {', '.join(folders)}"
    raise UserError(
        f"{_called(other, folders[other])} has {key} {shown(settings[other][key])}, {_called(first, folders[first])} "
        f"{shown(standard[key])}; {todo}"
    )


def pipeline_parts(folder: Path) -> dict[str, Any]:
    """Return the modules and settings that make an embedding of hidden states, alike for all saving versions."""
    modules = st_modules(folder)
    pooling = read_json(module_folder(folder, "Pooling", "1_Pooling") / "config.json", {})
    parts = {
        "modules": " > ".join(kind for kind, _ in modules),
        "pooling": pooling_modes(pooling),
        "include_prompt": pooling.get("include_prompt", True),
        "do_lower_case": reads_in_lower_case(folder),
    }
    others = [(kind, path) for kind, path in modules if kind not in ("Transformer", "Pooling", "Normalize")]
    return parts | {
        f"{path.name}/config.json": without_defaults(read_json(path / "config.json", {}), kind) for kind, path in others
    }
