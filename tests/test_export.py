"""``python -m lightning_app export --onnx``: the graph computes what sentence-transformers computes."""

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from lightning_app.__main__ import main
from modules.encoding.text_encoder import TextEncoder
from modules.errors import UserError
from modules.onnx_export import export_onnx
from modules.onnx_export.sentence_graph import refuse_other_pipelines
from tests.tiny_families import LINES, save_family

ROOT = Path(__file__).parent.parent

HAS_ONNX = all(importlib.util.find_spec(name) for name in export_onnx.NEEDED)

needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="needs onnx, onnxscript and onnxruntime: the extra `onnx`")

TEXTS = ["how do I reset my card pin", *LINES[:4], "dog", "Zürich " * 100]


@pytest.fixture(autouse=True, scope="module")
def kept_graphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make the graph of each family once: all models of a family are the same, and torch takes seconds."""
    folder, write = tmp_path_factory.mktemp("graphs"), export_onnx.write_graph

    def write_once(encoder: TextEncoder, file: Path) -> None:
        kept = folder / encoder.backbone.config.model_type
        if not kept.exists():
            write(encoder, kept)
        shutil.copy(kept, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_onnx, "write_graph", write_once)
        yield


def export(folder: Path, *options: str) -> int:
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    given = ["--model", str(folder / "model"), "--out", str(folder / "exported"), "--texts", str(folder / "texts.txt")]
    return main(["export", "--onnx", *given, *options])


@needs_onnx
@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "qwen3"])  # mean, cls, and last token with padding before it
def test_the_lines_of_the_documentation_embed_as_sentence_transformers(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_family(family, tmp_path / "model", prompts={"query": "query: "})
    assert export(tmp_path, *["--int8"] * (family == "bert")) == 0
    printed = capsys.readouterr().out
    [error] = re.findall(r"7 texts: largest relative difference from torch (\S+) \(limit 1e-04\)", printed)
    assert float(error) < 1e-4 and ("int8: cosine with torch" in printed) == (family == "bert")
    about = json.loads((tmp_path / "exported" / "model.json").read_text())
    assert about["prompts"]["query"] == "query: " and about["relative_error"] == pytest.approx(float(error), rel=0.1)
    assert str(tmp_path) not in json.dumps(about)
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/onnx.md").read_text(), re.DOTALL)
    made: dict[str, Any] = {}
    exec(code, made)
    [given] = re.findall(r"encode_batch\((\[.*?\])\)", code)
    expected = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(json.loads(given))
    assert np.abs(made["embeddings"] - expected).max() < 1e-5 and len(code.strip().splitlines()) <= 7


@needs_onnx
def test_what_differs_too_much_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    save_family("bert", tmp_path / "model")
    monkeypatch.setattr(export_onnx, "COSINE", 1.1)
    assert export(tmp_path, "--int8") == 2
    said = capsys.readouterr().err
    assert re.search(r"error: int8: cosine .* \(limit 1.1\), lowest for '.*'; nothing is written", said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model-plain", "texts.txt"]


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("static", "a model of StaticEmbedding, Normalize has no ONNX export"),
        ("gpt2", "the pooling weightedmean has no ONNX export; there is one of mean, cls, lasttoken"),
    ],
)
def test_other_models_are_refused_in_one_line(family: str, message: str, tmp_path: Path) -> None:
    save_family(family, tmp_path / "model")
    with pytest.raises(UserError, match=message):
        refuse_other_pipelines(TextEncoder.load(tmp_path / "model"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "x", "--out", "y"], "name the format: --onnx"),
        (["--onnx", "--out", "y"], "--model is missing"),
        (["--onnx", "--model", "x", "--out", "{folder}"], "exists already; remove it or choose another --out"),
        (["--onnx", "--model", "x", "--out", "y", "--texts", "no.txt"], "--texts: there is no file no.txt"),
        (["--onnx", "--model", "x", "--out", "y", "--texts", "{folder}/empty.txt"], "empty.txt has no texts"),
        (["--onnx", "--modl", "x"], "unknown key '--modl'; did you mean 'model'?"),
    ],
)
def test_mistakes(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    assert main(["export", *(option.replace("{folder}", str(tmp_path)) for option in options)]) == 2
    assert message in capsys.readouterr().err


def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export_onnx, "NEEDED", ("json", "no_such_onnx"))
    assert export(tmp_path) == 2
    assert (
        "error: no_such_onnx not installed: pip install 'embedding-self-positioning[onnx]'" in capsys.readouterr().err
    )
