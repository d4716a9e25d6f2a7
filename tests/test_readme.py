"""README's Python runs as it stands, but for the model, the sizes and the device."""

import csv
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer

from tests.conftest import Project, write_rows
from tests.tiny_encoder import WORDS

README = Path(__file__).parent.parent / "README.md"

TEXTS = ["a red cat", "the blue dog runs", "query : the sky is blue"]


def smaller(code: str, **values: str) -> str:
    """The code with other values of some keyword arguments, each of which it must have."""
    for key, value in values.items():
        code, found = re.subn(rf"\b{key}=\w+", f"{key}={value}", code)
        assert found, f"README's example has no {key}"
    return code


def test_the_same_job_in_python(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)
    draw = random.Random(0)
    texts = [" ".join(draw.sample(WORDS, 5)) for _ in range(800)]
    pairs = list(zip(texts[:400], texts[400:], strict=True))
    write_rows(Path("faq.jsonl"), [{"anchor": a, "positive": b} for a, b in pairs])
    with open("similarity.csv", "w", newline="") as file:
        csv.writer(file).writerows([("sentence1", "sentence2", "score"), *((a, b, draw.random()) for a, b in pairs)])
    [code] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    code = smaller(code, probe_size="48", validation_size="36", size="96", max_steps="4", max_epochs="2")
    code = code.replace("sentence-transformers/all-MiniLM-L6-v2", str(project.base))
    made: dict[str, Any] = {}
    exec(code.replace("Trainer(", "Trainer(accelerator='cpu', "), made)
    merge = made["merge"]
    assert list(merge.expert_names) == ["faq", "similarity"]
    assert merge.best.objective < 1.0
    encoded = SentenceTransformer("merged", device="cpu").encode(TEXTS)
    assert (torch.tensor(encoded) - merge.encoder.encode(TEXTS)).abs().max() < 1e-5
