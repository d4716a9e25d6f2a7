"""Writing a model card: front matter that the hub reads, the text, and scores as the hub's leaderboards read them."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.checkpoints.base_model import is_hub_name, shown_name
from modules.markdown import markdown_table
from modules.merging.describe import in_words
from modules.model_card.finding import Evaluation, Finding
from modules.model_card.licence import CARD, KEYS
from modules.model_card.usage import adapter_usage, prompts_text, usage

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

EVAL_RESULTS = ".eval_results"
"""The folder of scores that the hub shows on a model's page and on the leaderboards of data sets."""

TAGS = ("sentence-transformers", "sentence-similarity", "feature-extraction")

METHOD = (
    "`theta_0 + sum_i c_i V_i`, with `theta_0` the base, `V_i` the difference of expert i and the base, `a` the free "
    "numbers of the method and `c` its coefficients, scale included"
)

LEARNED = "at a position that was learned ([Self Positioning](https://arxiv.org/abs/2410.15035))"

THIS_FOLDER = "path/to/this/folder"

UNKNOWN_LICENCE = "The base's card states no licence; see the licences of all models above before passing this one on."


def write_card(folder: Path, name: str, record: Mapping[str, Any], finding: Finding) -> None:
    """Write ``README.md`` and ``.eval_results`` of a model, in the place of older ones.

    Args:
        folder: of the model, complete but for these files.
        name: of the model, where it has none on the hub.
        record: the models that it is made of, and how: the content of ``merge.json``; of a model that is trained, and
            not merged, without ``experts``.
        finding: what else is known of it.
    """
    from huggingface_hub import ModelCard  # here, because it takes a while to import

    name = name if finding.hub_name is None else finding.hub_name.rpartition("/")[2]
    text = "\n\n".join([f"# {name}", *_sections(folder, record, finding)])
    aside = folder / f".{CARD}.tmp"
    ModelCard(f"---\n{_front_matter(name, record, finding).to_yaml()}\n---\n\n{text}\n").save(aside)
    aside.replace(folder / CARD)
    _write_scores(folder / EVAL_RESULTS, finding.evaluation)


def _write_scores(folder: Path, evaluation: Evaluation) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for file, content in evaluation.files.items():
        folder.mkdir(exist_ok=True)
        (folder / file).write_text(content, encoding="utf-8")


def _front_matter(name: str, record: Mapping[str, Any], finding: Finding) -> "ModelCardData":
    from huggingface_hub import ModelCardData

    merged, adapter, results = "experts" in record, "adapter" in record, list(finding.evaluation.results)
    origins = [str(part.get("path") or part["from"]) for part in (record["base"], *record.get("experts", {}).values())]
    bases = list(dict.fromkeys(origin for origin in origins if is_hub_name(origin)))
    others: dict[str, Any] = {key: value for key, value in record["base"].items() if key in KEYS}
    if bases:
        others["base_model_relation"] = "merge" if merged else "finetune"
    return ModelCardData(
        base_model=bases or None,
        datasets=sorted(set(filter(is_hub_name, finding.sources))) or None,
        eval_results=results or None,
        library_name="peft" if adapter else "sentence-transformers",
        model_name=name if results else None,
        pipeline_tag="sentence-similarity",
        tags=[*TAGS, *["merge"] * merged, *["mteb"] * bool(results), *["peft"] * adapter],
        **others,
    )


def _sections(folder: Path, record: Mapping[str, Any], finding: Finding) -> Iterable[str]:
    """Yield the parts of the text."""
    yield _summary(record)
    yield f"## Usage\n\n```python\n{_usage(folder, finding.hub_name or THIS_FOLDER, record)}\n```"
    if prompts := prompts_text(record["settings"]):
        yield f"Texts have these prompts put before them:\n\n{prompts}"
    yield f"## Models\n\n{_models(record)}"
    if "experts" in record:
        yield f"## Merge\n\n{METHOD}:\n\n{_coefficients(record)}\n\n{_method(record)}"
    yield from (f"## {heading}\n\n{text}" for heading, text in finding.sections.items())
    yield f"## Licence\n\n{_licences(record)}"


def _summary(record: Mapping[str, Any]) -> str:
    base = f"`{_origin(record['base'])}`"
    if "experts" not in record:
        return f"A text-embedding model, trained from {base}."
    kind = "adapter" if "adapter" in record else "model"
    where = f", {LEARNED}" if "learned" in record else ""
    return f"A text-embedding {kind}, merged from {len(record['experts'])} experts of {base}{where}."


def _usage(folder: Path, name: str, record: Mapping[str, Any]) -> str:
    if "adapter" in record:
        return adapter_usage(name, _origin(record["base"]))
    return usage(name, record["settings"], own_code=any(folder.rglob("*.py")))


def _models(record: Mapping[str, Any]) -> str:
    parts = {"base": record["base"], **record.get("experts", {})}
    rows = [[name, _described(part), f"`{part['sha256']}`"] for name, part in parts.items()]
    return markdown_table(["name", "model", "sha256 of its weights"], rows, numbers=False)


def _described(part: Mapping[str, Any]) -> str:
    """Return a model in words: its name, or what it was made of in the same run."""
    if "path" in part:
        return f"`{shown_name(part['path'])}`"
    if "merged_from" in part:
        return f"merged from {', '.join(part['merged_from'])}"
    return f"trained from `{shown_name(part['from'])}` on {', '.join(part['trained_on'])}"


def _origin(part: Mapping[str, Any]) -> str:
    return shown_name(part.get("path") or part["from"])


def _coefficients(record: Mapping[str, Any]) -> str:
    """Return a table of the experts and their coefficients, with the range over several groups."""
    rows = []
    for name in record["experts"]:
        values = [group[name] for group in record["coefficients"].values()]
        low, high = f"{min(values):.4f}", f"{max(values):.4f}"
        rows.append([name, f"{record['a'][name]:g}", low if low == high else f"{low} to {high}"])
    return markdown_table(["expert", "a", "c"], rows)


def _method(record: Mapping[str, Any]) -> str:
    lines = [
        f"- method: `{in_words(record['method'])}`",
        f"- scale: {record['scale']:g}",
        f"- granularity: {record['granularity']}",
    ]
    if "dtype" in record:
        lines.append(f"- dtype: {record['dtype']}")
    if "adapter" in record:
        lines.append(f"- adapter: rank {record['adapter']['rank']}, relative error {record['adapter']['error']:.3g}")
    return "\n".join([*lines, "", "`merge.json` has the coefficients of all groups."])


def _licences(record: Mapping[str, Any]) -> str:
    parts = {"the base": record["base"], **record.get("experts", {})}
    stated = {name: part[key] for name, part in parts.items() for key in ("license_name", "license") if key in part}
    if "the base" not in stated:
        return UNKNOWN_LICENCE
    said = ", ".join(f"{name} {licence}" for name, licence in stated.items())
    return f"As the cards of the models state it: {said}."
