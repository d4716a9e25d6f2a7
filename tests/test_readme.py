"""README's Python runs as it stands, but for the model, the sizes and the device."""

import csv
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer

from modules import TextEncoder
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


@pytest.fixture
def rows(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project, in its folder, with the two files of README."""
    monkeypatch.chdir(project.folder)
    draw = random.Random(0)
    texts = [" ".join(draw.sample(WORDS, 5)) for _ in range(800)]
    pairs = list(zip(texts[:400], texts[400:], strict=True))
    write_rows(Path("faq.jsonl"), [{"anchor": a, "positive": b} for a, b in pairs])
    with open("similarity.csv", "w", newline="") as file:
        csv.writer(file).writerows([("sentence1", "sentence2", "score"), *((a, b, draw.random()) for a, b in pairs)])
    return project


def examples() -> list[str]:
    """README's Python: merging given models, then the whole job."""
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_given_models_are_merged_in_five_lines(rows: Project) -> None:
    code, _ = examples()
    assert len(code.strip().splitlines()) <= 5
    for seed, name in enumerate("ABC"):
        encoder = TextEncoder.load(str(rows.base))
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in encoder.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        encoder.save(name)
    made: dict[str, Any] = {}
    exec(code.replace("BASE", str(rows.base)), made)
    assert list(made["merged"].record["coefficients"]["model"]) == ["A", "B", "C"]
    assert "| self_positioning | " in made["merged"].report
    assert SentenceTransformer("merged", device="cpu").encode(TEXTS).shape == (3, 16)


def test_the_same_job_in_python(rows: Project) -> None:
    _, code = examples()
    code = smaller(code, probe_size="48", validation_size="36", size="96", max_steps="4", max_epochs="2")
    code = code.replace("sentence-transformers/all-MiniLM-L6-v2", str(rows.base))
    made: dict[str, Any] = {}
    exec(code.replace("Trainer(", "Trainer(accelerator='cpu', "), made)
    merge = made["merge"]
    assert list(merge.expert_names) == ["faq", "similarity"]
    assert merge.best.objective < 1.0
    encoded = SentenceTransformer("merged", device="cpu").encode(TEXTS)
    assert (torch.tensor(encoded) - merge.encoder.encode(TEXTS)).abs().max() < 1e-5
