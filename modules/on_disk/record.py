"""The records in a merged folder: ``merge.json``, its lineage and a model card."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modules.checkpoints.lineage import write_lineage

CARD = """---
{header}---

# {title}

Merged from {count} experts by {method}: theta_0 + sum_i c_i V_i, with V_i the difference of expert i and the base.

- base: `{base}`
- method: {method}, arguments {arguments}, scale {scale}, granularity {granularity}

{table}
{finding}
`merge.json` has the sha256 of every model and all coefficients.

## Usage

```python
{usage}
```
"""

USAGE = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
embeddings = model.encode(["A text.", "Another text."])"""

ADAPTER_USAGE = """from peft import PeftModel
from transformers import AutoModel

model = PeftModel.from_pretrained(AutoModel.from_pretrained({base!r}), "path/to/this/folder")"""


@dataclass(frozen=True)
class Finding:
    """The learning of a position, for the records of its merge.

    Args:
        record: the entry ``learned`` of ``merge.json``.
        card: a section of the model card, in Markdown.
    """

    record: Mapping[str, Any]
    card: str


def write_records(
    folder: Path, record: dict[str, Any], ancestors: list[str], finding: Finding | None = None
) -> dict[str, Any]:
    """Write ``merge.json``, the lineage and the model card of a merged model.

    Args:
        folder: of the merged model.
        record: the content of ``merge.json``.
        ancestors: identities of the weights of its ancestors, the base's last.
        finding: how its position was learned; None: it was given.

    Returns:
        The content of ``merge.json``.
    """
    if finding is not None:
        record = record | {"learned": dict(finding.record)}
    (folder / "merge.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    write_lineage(folder, ancestors, record["base"]["path"])
    (folder / "README.md").write_text(_card(record, finding), encoding="utf-8")
    return record


def _card(record: dict[str, Any], finding: Finding | None) -> str:
    adapter = "adapter" in record
    tags = ["sentence-transformers", "feature-extraction", "sentence-similarity", "merge", *["peft"] * adapter]
    header = {
        "library_name": "peft" if adapter else "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": tags,
    }
    base = record["base"]["path"]
    return CARD.format(
        header=yaml.safe_dump(header, sort_keys=False),
        title="Merged text-embedding adapter" if adapter else "Merged text-embedding model",
        count=len(record["experts"]),
        method=record["method"]["class"].rsplit(".", 1)[-1],
        base=base,
        arguments=json.dumps(record["method"]["arguments"]),
        scale=record["scale"],
        granularity=record["granularity"],
        table=_table(record),
        finding="" if finding is None else f"\n{finding.card}\n",
        usage=ADAPTER_USAGE.format(base=base) if adapter else USAGE,
    )


def _table(record: dict[str, Any]) -> str:
    """Return a table of the experts and their coefficients, with the range over several groups."""
    rows = ["| expert | a | c |", "|---|---:|---:|"]
    for name, expert in record["experts"].items():
        values = [group[name] for group in record["coefficients"].values()]
        low, high = f"{min(values):.4f}", f"{max(values):.4f}"
        rows.append(
            f"| {name} (`{expert['path']}`) | {record['a'][name]:g} | {low if low == high else f'{low} to {high}'} |"
        )
    return "\n".join(rows)
