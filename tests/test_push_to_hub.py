"""``--push_to_hub``: what a hub on this machine gets from huggingface_hub's own client."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer

from lightning_app.__main__ import main
from lightning_app.hub_upload import write_upload
from tests.conftest import Project
from tests.fake_hub import Hub, fake_hub
from tests.tiny_encoder import tiny_encoder

TEXTS = ["a red cat", "the blue dog runs"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with fake_hub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        yield hub


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    """The arguments of a merge."""
    for seed, name in enumerate(("base", "a", "b")):
        tiny_encoder(seed).save(tmp_path / name)
    experts = [str(tmp_path / name) for name in ("a", "b")]
    out = ["--out", str(tmp_path / "out")]
    return ["merge", "--method", "average", "--base", str(tmp_path / "base"), "--experts", *experts, *out]


def embeddings(folder: Path) -> Any:
    return SentenceTransformer(str(folder), device="cpu").encode(TEXTS)


def test_a_merge_is_sent_whole(hub: Hub, models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*models, "--push_to_hub", "ours/merged", "--private"]) == 0
    assert f"the model on the hub: {hub.address}/ours/merged" in capsys.readouterr().out
    assert hub.private == ["ours/merged"]
    sent, kept = hub.checkout("ours/merged", tmp_path / "sent"), tmp_path / "out"
    files = {str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()}
    assert set(hub.repositories["ours/merged"]) == files
    assert np.array_equal(embeddings(sent), embeddings(kept))
    card = ModelCard.load(sent / "README.md")
    assert "# merged" in card.text and 'SentenceTransformer("ours/merged")' in card.text
    assert not [name for name, content in hub.repositories["ours/merged"].items() if str(tmp_path).encode() in content]
    assert json.loads((sent / "merge.json").read_text())["experts"]["a"]["path"] == "a"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "base", "out", "sent"]


def test_a_run_sends_the_model_that_its_link_leads_to(hub: Hub, fitted: Project, tmp_path: Path) -> None:
    assert main(["fit", "--config", str(fitted.recipe), "--push_to_hub", "mine"]) == 0
    sent = hub.checkout("me/mine", tmp_path / "sent")
    assert np.array_equal(embeddings(sent), embeddings(fitted.run_dir / "model")) and not hub.private
    assert 'SentenceTransformer("me/mine")' in (sent / "README.md").read_text()
    assert not (fitted.run_dir / "model.upload").exists()


def test_only_the_model_is_sent(tmp_path: Path) -> None:
    """A snapshot of the hub's cache is made of links; what lies beside a model for other purposes stays."""
    tiny_encoder().save(tmp_path / "blobs")
    (tmp_path / "link").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "link" / file.name).symlink_to(file)
    (tmp_path / "link" / "config.json").unlink()
    config = json.loads((tmp_path / "blobs" / "config.json").read_text()) | {"_name_or_path": str(tmp_path / "secret")}
    (tmp_path / "link" / "config.json").write_text(json.dumps(config))
    for name in ("statistics/fisher.safetensors", ".lock", ".eval_results/STS.yaml", ".cache/x"):
        (tmp_path / "link" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "link" / name).write_text("x")
    write_upload(tmp_path / "link", tmp_path / "out")
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert ".eval_results/STS.yaml" in names and not names & {"statistics/fisher.safetensors", ".lock", ".cache/x"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["_name_or_path"] == "secret"
    shutil.rmtree(tmp_path / "blobs")
    assert embeddings(tmp_path / "out").shape == (2, 16)


MISTAKES = {
    "form": (["--push_to_hub", "a/b/c"], {}, "--push_to_hub a/b/c: not a name of the form org/name"),
    "token": (["--push_to_hub", "me/x"], {"HF_TOKEN": ""}, "there is no token for the hub; log in with: hf auth login"),
    "wrong token": (["--push_to_hub", "me/x"], {"HF_TOKEN": "hf_wrong"}, "the hub does not answer as it should"),
    "owner": (["--push_to_hub", "theirs/x"], {}, "the token is of me, who may write to me, ours"),
    "adapter": (["--push_to_hub", "x", "--adapter_rank", "2"], {}, "an adapter needs its base on the hub"),
    "nothing to send": (["--private"], {}, "--private: it is for --push_to_hub NAME"),
}


@pytest.mark.parametrize(("options", "environment", "message"), MISTAKES.values(), ids=MISTAKES)
def test_what_the_hub_would_refuse_shows_before_the_merge(
    options: list[str],
    environment: dict[str, str],
    message: str,
    hub: Hub,
    models: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main([*models, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists() and not hub.repositories


def test_without_a_hub_nothing_is_begun(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert main([*models, "--push_to_hub", "me/x"]) == 2
    assert "the hub does not answer as it should: ConnectError" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_the_hub_does_not_take_is_kept_to_be_sent(
    hub: Hub, models: list[str], tmp_path: Path, capsys: Any
) -> None:
    hub.refused = "/commit/"
    assert main([*models, "--push_to_hub", "me/x"]) == 2
    assert f"hf upload me/x {tmp_path / 'out.upload'}" in capsys.readouterr().err
    assert np.array_equal(embeddings(tmp_path / "out.upload"), embeddings(tmp_path / "out"))
