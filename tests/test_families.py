"""What sentence-transformers computes with models of many families is what we compute, and what our folders give."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

from modules import MergeModule, TaskArithmetic, TextEncoder
from modules.checkpoints.checkpoint_layout import read_layout
from modules.on_disk.merge_files import merge_files
from modules.on_disk.plan import Plan
from modules.positioning.task_vectors import load_task_vectors
from tests.tiny_families import BACKBONES, FAMILIES, TEXTS, save_family, save_plain

LONG = "the sky is blue because of scattered light " * 20


def twin(folder: Path, family: str) -> SentenceTransformer:
    """The library's model; where a decoder has no padding token, with the setting that lets it embed at all."""
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    if family in ("gpt2", "llama") and model.tokenizer.pad_token is None:
        model.tokenizer.pad_token = model.tokenizer.eos_token
    return model


def alone(model: SentenceTransformer, texts: Sequence[str]) -> Tensor:
    return torch.stack([model.encode(text, convert_to_tensor=True) for text in texts])


def equal(ours: Tensor, theirs: Tensor) -> bool:
    return bool(((ours - theirs).norm(dim=1) <= 1e-5 * theirs.norm(dim=1)).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_are_the_library_s_and_so_are_those_of_the_saved_model(family: str, tmp_path: Path) -> None:
    folder = save_family(family, tmp_path / "model")
    # Of more tokens than XLM-R has positions, the library takes two too many.
    texts = [*TEXTS, LONG] if family != "xlm-roberta" else TEXTS
    expected = alone(twin(folder, family), texts)
    encoder = TextEncoder.load(folder)
    assert equal(encoder.encode(texts, batch_size=2), expected)
    assert equal(torch.cat([encoder.encode([text]) for text in texts]), expected)
    encoder.save(tmp_path / "saved")
    saved = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert equal(saved.encode(texts, convert_to_tensor=True), expected)  # in one batch, with nothing set
    assert equal(TextEncoder.load(tmp_path / "saved").encode(texts), expected)


@pytest.mark.parametrize("family", BACKBONES)
def test_a_plain_checkpoint_is_read_as_the_library_reads_it(family: str, tmp_path: Path) -> None:
    folder = save_plain(family, tmp_path / "plain")
    model = twin(folder, family)
    expected = alone(model, TEXTS)
    encoder = TextEncoder.load(folder)
    assert equal(encoder.encode(TEXTS), expected)
    encoder.save(tmp_path / "saved")
    assert equal(
        SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(TEXTS, convert_to_tensor=True), expected
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_all_parameters_have_the_names_of_the_files(family: str, tmp_path: Path) -> None:
    folder = save_family(family, tmp_path / "model")
    encoder, layout = TextEncoder.load(folder), read_layout(folder)
    weights = encoder.weights()
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
        name: weight.info.shape for name, weight in layout.weights.items()
    }
    named = dict(encoder.named_parameters())
    assert {id(weight) for weight in named.values()} == {id(weight) for weight in weights.values()}
    assert all(named[encoder.qualified(name)] is weight for name, weight in weights.items())
    layout.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_but_a_pooler_s_is_trained(family: str, tmp_path: Path) -> None:
    encoder = TextEncoder.load(save_family(family, tmp_path / "model"))
    embeddings = encoder(encoder.tokenize([*TEXTS, LONG]))
    (embeddings * torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    without = [name for name, weight in encoder.weights().items() if weight.requires_grad and weight.grad is None]
    assert without == []


def nudged(folder: Path, out: Path, seed: int) -> str:
    """A copy of a model, all weights of all its modules a small random step away."""
    shutil.copytree(folder, out)
    generator = torch.Generator().manual_seed(seed)
    for file in out.rglob("*.safetensors"):
        state = {
            key: weight + 0.01 * torch.randn(weight.shape, generator=generator)
            for key, weight in load_file(file).items()
        }
        save_file(state, file, metadata={"format": "pt"})
    return str(out)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_routes_merge_every_weight_to_the_same_bits(family: str, tmp_path: Path) -> None:
    base = save_family(family, tmp_path / "base")
    experts = {f"e{seed}": nudged(base, tmp_path / f"e{seed}", seed) for seed in (1, 2)}
    merge_files(Plan(str(base), experts, TaskArithmetic(), dtype=None), tmp_path / "on_disk", lambda _: None)
    module = MergeModule(str(base), experts, TaskArithmetic(), signed=True)
    module.save(tmp_path / "in_memory")
    for file in base.rglob("*.safetensors"):
        place = file.relative_to(base)
        before = load_file(file)
        ours, other = load_file(tmp_path / "in_memory" / place), load_file(tmp_path / "on_disk" / place)
        assert ours.keys() == other.keys() == before.keys()
        assert all(torch.equal(ours[key], other[key]) and not torch.equal(ours[key], before[key]) for key in before)
    texts = module.encoder.encode(TEXTS)
    for route in ("on_disk", "in_memory"):
        assert equal(
            SentenceTransformer(str(tmp_path / route), device="cpu").encode(TEXTS, convert_to_tensor=True), texts
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_trained_from_a_base_goes_with_it(family: str, tmp_path: Path) -> None:
    base = save_family(family, tmp_path / "base")
    trained, expert = TextEncoder.load(base), tmp_path / "expert"
    with torch.no_grad():
        for weight in trained.parameters():
            weight += 0.01
    trained.save(expert)
    lines: list[str] = []
    merge_files(Plan(str(base), {"e": str(expert)}, TaskArithmetic()), tmp_path / "merged", lines.append)
    vectors = load_task_vectors(TextEncoder.load(base), {"e": str(expert)}, say=lines.append)
    assert vectors.keys() == trained.weights().keys()
    assert lines == [f"wrote {tmp_path / 'merged'}"], "nothing differs"


@pytest.mark.parametrize("cased", [False, True])
def test_a_fine_tune_that_the_library_saved_goes_with_its_lower_casing_base(cased: bool, tmp_path: Path) -> None:
    """It moves the flag ``do_lower_case`` into the tokenizer, even where that lower-cases anyway."""
    base = save_family("bert", tmp_path / "base")
    (base / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": true}')
    words = json.loads((base / "tokenizer.json").read_text())
    words["normalizer"]["lowercase"] = not cased
    (base / "tokenizer.json").write_text(json.dumps(words))
    SentenceTransformer(str(base), device="cpu").save_pretrained(str(tmp_path / "saved"))
    expert = nudged(tmp_path / "saved", tmp_path / "expert", 1)
    merge_files(Plan(str(base), {"e": expert}, TaskArithmetic()), tmp_path / "merged", lambda _: None)
    theirs = SentenceTransformer(expert, device="cpu").encode(TEXTS, convert_to_tensor=True)
    assert equal(TextEncoder.load(tmp_path / "merged").encode(TEXTS), theirs)
    assert load_task_vectors(TextEncoder.load(base), {"e": expert})
