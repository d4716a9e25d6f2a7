"""What `predict` embeds."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from lightning_app.stages.published_model import finished_model, publish
from lightning_app.verbs.predict import predict, read_texts
from modules import TextEncoder, UserError
from tests.tiny_encoder import Settings, tiny_encoder

PROMPTS = {"query": "query : ", "passage": "document : "}


@pytest.mark.parametrize("default", ["query", None])
def test_the_default_prompt_goes_before_every_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, default: str | None
) -> None:
    tiny_encoder(config=Settings(max_length=32, prompts=PROMPTS, default_prompt_name=default)).save(tmp_path / "m")
    (tmp_path / "texts.txt").write_text("a cat\nthe sky is blue\u2028a ball\n", encoding="utf-8")
    out = str(tmp_path / "out.safetensors")
    texts = read_texts(str(tmp_path / "texts.txt"), out)
    with caplog.at_level("INFO"):
        predict(TextEncoder.load(tmp_path / "m"), texts, out)
    expected = torch.tensor(SentenceTransformer(str(tmp_path / "m"), device="cpu").encode(texts))
    assert torch.allclose(load_file(out)["embeddings"], expected, atol=1e-5) and len(texts) == 2
    assert ("before every text: 'query : '" in caplog.text) == (default is not None)


def test_a_prompt_is_named_or_given(tmp_path: Path) -> None:
    tiny_encoder(config=Settings(max_length=32, prompts=PROMPTS, default_prompt_name="query")).save(tmp_path / "m")
    theirs, ours = SentenceTransformer(str(tmp_path / "m"), device="cpu"), TextEncoder.load(tmp_path / "m")
    out = tmp_path / "out.safetensors"
    for given in ({"prompt_name": "passage"}, {"prompt_name": "document"}, {"prompt": "the "}, {"prompt": ""}):
        predict(ours, ["a cat"], str(out), **given)
        expected = torch.tensor(theirs.encode(["a cat"], **given))
        torch.testing.assert_close(load_file(out)["embeddings"], expected, atol=1e-5, rtol=0)
    with pytest.raises(
        UserError, match="--prompt_name: the model has no prompt 'passages'; it has query, document, pa"
    ):
        predict(ours, ["a cat"], str(out), prompt_name="passages")
    with pytest.raises(UserError, match="--prompt and --prompt_name are both given"):
        predict(ours, ["a cat"], str(out), prompt="x", prompt_name="query")


def test_an_empty_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    for content, line in (("a\n \nb\n", 2), ("", 1)):
        file.write_text(content)
        with pytest.raises(UserError, match=f"texts.txt:{line}: an empty line has no embedding"):
            read_texts(str(file), "out")


def test_a_file_that_cannot_be_written_is_refused_before_the_model_is_read(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a cat\n")
    for out, message in {"": "that is a folder; name a file", "none/x": "there is no folder .*none; make it"}.items():
        with pytest.raises(UserError, match=f"--out .*: {message}"):
            read_texts(str(tmp_path / "texts.txt"), str(tmp_path / out))


def test_the_finished_model_is_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / "stages" / name).mkdir(parents=True)
        (tmp_path / "stages" / name / "config.json").write_text(name)
    read = tmp_path / "model" / "config.json"
    assert (
        publish(tmp_path, tmp_path / "stages/one").endswith("model, a link to stages/one") and read.read_text() == "one"
    )
    moved = tmp_path / "moved"
    publish(tmp_path, tmp_path / "stages/two")
    assert Path(finished_model(tmp_path)).resolve() == tmp_path / "stages/two"

    def no_links(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    for name in ("one", "two"):
        assert "a copy of" in publish(tmp_path, tmp_path / "stages" / name)
        assert read.read_text() == name and not (tmp_path / "model").is_symlink()
    monkeypatch.undo()
    publish(tmp_path, tmp_path / "stages/one")
    assert (tmp_path / "model").is_symlink() and read.read_text() == "one"
    tmp_path.joinpath("stages").rename(moved)
    with pytest.raises(UserError, match="run fit first"):
        finished_model(tmp_path)
