"""An encoder at a learnable position: what trains, what stays, what is written."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.func import functional_call
from transformers import BartConfig, BertModel
from transformers.models.bart.modeling_bart import BartEncoder

from modules import Slerp, TextEncoder
from modules.merging.granularity import groups_of
from modules.merging.merge_method import Prepared
from modules.positioning.merged_encoder import MergedEncoder
from modules.positioning.position import Position
from modules.positioning.recompute import checkpointed_in_evaluation, checkpointing_layers
from modules.positioning.task_vectors import gram_matrices, load_task_vectors
from tests.test_merging import SPAN, obvious_slerp
from tests.tiny_encoder import Settings, loaded, tiny_decoder, tiny_encoder, tiny_tokenizer

TEXTS = ["a red cat", "the dog runs", "query : the sky is blue a red ball runs the dog sits", "ball"]


def shifted(encoder: TextEncoder, seed: int) -> TextEncoder:
    """An expert: all trainable weights moved a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in encoder.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return encoder


def merged(
    folder: Path, make: Callable[[], TextEncoder] = tiny_encoder, experts: int = 2, name: str = "slerp"
) -> MergedEncoder:
    folders = {}
    for seed in range(experts):
        folders[str(seed)] = str(folder / f"expert{seed}")
        shifted(make(), seed).save(folders[str(seed)])
    make().save(folder / "start")
    base = TextEncoder.load(folder / "start")
    vectors = load_task_vectors(base, folders)
    position = Position(SPAN[name][0], gram_matrices(vectors, groups_of(vectors, "model")))
    return MergedEncoder(base, {name: Prepared(v) for name, v in vectors.items()}, position)


def flat(state: Mapping[str, Tensor], names: list[str]) -> np.ndarray:
    return np.concatenate([state[name].detach().double().numpy().ravel() for name in names])


def set_position(encoder: MergedEncoder, a: list[float], scale: float) -> None:
    with torch.no_grad():
        encoder.position.raw_a.copy_(torch.tensor([a]).expm1().log())
        encoder.position.raw_scale.copy_(torch.tensor([scale]).expm1().log())


@pytest.mark.parametrize("experts", [2, 3, 5])
@pytest.mark.parametrize("name", SPAN)
def test_saved_weights_are_the_flat_formula(tmp_path: Path, name: str, experts: int) -> None:
    encoder = merged(tmp_path, experts=experts, name=name)
    a, scale = [0.4 + 0.5 * i for i in range(experts)], 0.8
    set_position(encoder, a, scale)
    encoder.save(str(tmp_path / "merged"))
    base, *theirs = (
        dict(TextEncoder.load(folder).named_parameters())
        for folder in [saved_base(tmp_path), *(tmp_path / f"expert{i}" for i in range(experts)), tmp_path / "merged"]
    )
    names = list(base)
    theta_0, *theta, found = (flat(state, names) for state in (base, *theirs))
    method, obvious = SPAN[name]
    vectors = np.stack(theta) - theta_0
    expected = theta_0 + (scale if method.has_scale else 1.0) * obvious(vectors, a)
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


def saved_base(folder: Path) -> Path:
    tiny_encoder().save(folder / "base")
    return folder / "base"


def test_a_step_moves_the_position_and_nothing_else(tmp_path: Path) -> None:
    encoder = merged(tmp_path)
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained == {"position.raw_a", "position.raw_scale"}
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.1)
    embeddings = encoder(encoder.tokenize(TEXTS))
    (embeddings @ embeddings.T).sum().backward()
    optimizer.step()
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in trained)
    assert all(p.grad is None for name, p in encoder.named_parameters() if name not in trained)


def test_the_gradient_is_that_of_the_whole_formula(tmp_path: Path) -> None:
    encoder = merged(tmp_path, experts=3).double()
    features = encoder.tokenize(TEXTS)
    direction = torch.randn(4, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (encoder(features) * direction).sum().backward()
    ours = encoder.position.raw_a.grad, encoder.position.raw_scale.grad
    encoder.zero_grad()
    (c,) = encoder.position.coefficients()
    weights = {
        encoder.base.qualified(name): encoder.base.weights()[name]
        + torch.tensordot(c, encoder._prepared(name).vectors, 1)
        for name in encoder.names
    }
    (functional_call(encoder.base, weights, (features,)) * direction).sum().backward()
    for gradient, p in zip(ours, (encoder.position.raw_a, encoder.position.raw_scale), strict=True):
        assert gradient is not None
        assert p.grad is not None
        assert torch.allclose(gradient, p.grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("lower", [lambda m: m.to(torch.bfloat16), lambda m: m.bfloat16(), lambda m: m.half()])
def test_the_position_stays_float32(tmp_path: Path, lower: Callable[[MergedEncoder], MergedEncoder]) -> None:
    encoder = merged(tmp_path)
    set_position(encoder, [1.0001, 0.9], 1.0003)
    before = encoder.position.coefficients().detach()
    lower(encoder)
    assert {p.dtype for p in encoder.position.parameters()} == {torch.float32}
    assert torch.equal(encoder.position.coefficients(), before)
    assert next(encoder.vectors.parameters()).dtype in (torch.bfloat16, torch.float16)


def test_merged_weights_follow_the_coefficients_and_the_precision(tmp_path: Path) -> None:
    encoder = merged(tmp_path)
    first = encoder.encode(TEXTS)
    set_position(encoder, [3.0, 0.2], 0.5)
    second = encoder.encode(TEXTS)
    assert (first - second).abs().max() > 1e-3
    encoder.save(str(tmp_path / "second"))
    assert torch.allclose(TextEncoder.load(tmp_path / "second").encode(TEXTS), second, atol=1e-6)
    set_position(encoder, [1.0, 1.0], 1.0)
    assert torch.allclose(encoder.encode(TEXTS), first, atol=1e-6)
    encoder.bfloat16()
    assert encoder(encoder.tokenize(TEXTS)).dtype == torch.bfloat16


def probe(encoder: MergedEncoder, texts: Sequence[str]) -> Tensor:
    """A loss of two forward passes."""
    anchors, positives = encoder(encoder.tokenize(texts)), encoder(encoder.tokenize(texts[::-1]))
    return (anchors @ positives.T).exp().sum()


def gradient_of(encoder: MergedEncoder) -> Tensor:
    """That of the position, and forget it."""
    gradient = torch.cat([p.grad.flatten() for p in encoder.position.parameters() if p.grad is not None])
    encoder.zero_grad()
    return gradient


@pytest.mark.parametrize("name", ["slerp", "arithmetic"])
def test_gradients_of_a_step_add_up_however_they_are_taken(tmp_path: Path, name: str) -> None:
    encoder = merged(tmp_path, name=name)
    parts = TEXTS[:2], TEXTS[1:]
    for step in range(2):
        set_position(encoder, [1.0 + step, 0.7], 0.9)
        sum(probe(encoder, texts) for texts in parts).backward()  # type: ignore[union-attr]
        together = gradient_of(encoder)
        for texts in parts:
            probe(encoder, texts).backward()
        assert torch.allclose(gradient_of(encoder), together, rtol=1e-5)
        numbers = [p for p in encoder.position.parameters() if p.requires_grad]
        by_hand = [torch.autograd.grad(probe(encoder, texts), numbers) for texts in parts]
        added = [torch.cat([gradient.flatten() for gradient in each]) for each in by_hand]
        assert torch.allclose(added[0] + added[1], together, rtol=1e-5)
        copied = copy.deepcopy(encoder)  # has nothing worked out, and goes its own way
        sum(probe(copied, texts) for texts in parts).backward()  # type: ignore[union-attr]
        assert torch.allclose(gradient_of(copied), together, rtol=1e-5)
        assert all(p.grad is None for p in encoder.parameters())


def test_equal_coefficients_of_other_numbers_have_other_gradients(tmp_path: Path) -> None:
    encoder = merged(tmp_path, name="average")
    position = encoder.position = Position(encoder.position.method, encoder.position.grams, signed=True)
    gradients = []
    for a in ([1.0, 3.0], [2.0, 6.0]):
        position.stand_at(torch.tensor(a, dtype=torch.float64))
        probe(encoder, TEXTS).backward()
        assert position.raw_a.grad is not None
        gradients.append(position.raw_a.grad.clone())
        encoder.zero_grad()
    assert torch.allclose(gradients[0], 2 * gradients[1], rtol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("make", [tiny_encoder, tiny_decoder])
def test_gradient_checkpointing_leaves_the_gradient_as_it_is(
    tmp_path: Path, make: Callable[[], TextEncoder], reentrant: bool
) -> None:
    encoder = merged(tmp_path, make)
    probe(encoder, TEXTS).backward()
    expected = gradient_of(encoder)
    runs: list[bool] = []
    attention = next(m for m in encoder.base.modules() if type(m).__name__.endswith("Attention"))
    attention.register_forward_hook(lambda module, *_: runs.append(module.training))
    encoder.base.backbone.gradient_checkpointing_enable({"use_reentrant": reentrant})
    encoder.train()
    loss = probe(encoder, TEXTS)
    base = encoder.base.encode(TEXTS)
    loss.backward()
    assert torch.allclose(gradient_of(encoder), expected, rtol=1e-5)
    assert runs == [False] * 5  # two forward passes, that of the base, and the two again
    assert torch.equal(encoder.base.encode(TEXTS), base)
    assert torch.equal(base, TextEncoder.load(tmp_path / "start").encode(TEXTS))
    if not reentrant:  # with which torch refuses this way
        numbers = list(encoder.position.parameters())
        gradients = torch.autograd.grad(probe(encoder, TEXTS), numbers)
        assert torch.allclose(torch.cat([gradient.flatten() for gradient in gradients]), expected, rtol=1e-5)


def dropping_bart() -> TextEncoder:
    """Layers of this family drop out by themselves, without a module for it."""
    shape = {"d_model": 16, "encoder_layers": 2, "encoder_ffn_dim": 32, "encoder_attention_heads": 2}
    torch.manual_seed(0)
    config = BartConfig(vocab_size=18, dropout=0.5, activation_dropout=0.5, pad_token_id=0, **shape)
    encoder = tiny_encoder()
    encoder.pipeline[0].model = BartEncoder(config)
    return encoder


def test_a_layer_that_is_checkpointed_has_no_dropout() -> None:
    encoder = dropping_bart().eval()
    expected = encoder(encoder.tokenize(TEXTS))
    encoder.backbone.gradient_checkpointing_enable()
    layers = checkpointing_layers(encoder)
    assert len(layers) == 2
    with checkpointed_in_evaluation(layers):
        assert torch.equal(encoder(encoder.tokenize(TEXTS)), expected)
    assert not any(module.training for module in encoder.modules())


def test_saved_weights_are_those_of_the_forward_pass(tmp_path: Path) -> None:
    encoder = merged(tmp_path)
    set_position(encoder, [0.5, 2.0], 0.8)
    encoder.encode(TEXTS)
    kept = encoder._merge(encoder._coefficients())
    encoder.save(str(tmp_path / "merged"))
    assert encoder._merge(encoder._coefficients()) is kept
    saved = TextEncoder.load(tmp_path / "merged").weights()
    assert kept.keys() | encoder.tables == set(encoder.names)
    assert all(torch.equal(saved[name], weight) for name, weight in kept.items())


def test_weights_are_merged_once_a_position(tmp_path: Path) -> None:
    encoder = merged(tmp_path)
    c = encoder.position.coefficients().detach()
    assert encoder._merge(c) is encoder._merge(c.clone())
    assert encoder._merge(c) is not encoder._merge(c + 1)


def test_training_goes_on_after_encoding_in_inference_mode(tmp_path: Path) -> None:
    encoder = merged(tmp_path)
    with torch.inference_mode():
        expected = encoder.encode(TEXTS)
    embeddings = encoder(encoder.tokenize(TEXTS))
    assert torch.allclose(embeddings.detach(), expected, atol=1e-6)
    embeddings.sum().backward()
    assert encoder.position.raw_a.grad is not None


def test_there_is_no_dropout(tmp_path: Path) -> None:
    encoder = merged(tmp_path).train()
    assert not any(module.training for module in encoder.modules())


@pytest.mark.parametrize("make", [tiny_encoder, tiny_decoder])
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_sentence_transformers_loads_the_merge(tmp_path: Path, make: Callable[..., TextEncoder], pooling: str) -> None:
    config = Settings(pooling, pooling != "cls", 8, {"query": "query : "}, "query")
    encoder = merged(tmp_path, lambda: make(config=config))
    set_position(encoder, [0.5, 2.0], 0.8)
    encoder.save(str(tmp_path / "merged"))
    theirs = SentenceTransformer(str(tmp_path / "merged"), device="cpu")
    plain = torch.tensor(theirs.encode(TEXTS, prompt=""))
    prompted = torch.tensor(theirs.encode(TEXTS, prompt_name="query"))
    assert (encoder.encode(TEXTS) - plain).abs().max() < 1e-5
    assert (encoder.encode(TEXTS, prompt="query : ") - prompted).abs().max() < 1e-5
    assert (theirs.max_seq_length, theirs.default_prompt_name) == (8, "query")
    assert TextEncoder.load(tmp_path / "merged").settings() == encoder.base.settings()


def with_pooler() -> TextEncoder:
    plain = tiny_encoder()
    assert isinstance(plain.backbone, BertModel)
    torch.manual_seed(0)
    return loaded(BertModel(plain.backbone.config), tiny_tokenizer(), Settings(max_length=32))


def test_an_untouched_pooler_is_carried(tmp_path: Path) -> None:
    encoder = merged(tmp_path, with_pooler)
    assert not any("pooler" in name for name in encoder.names)
    assert encoder.base.weights()["pooler.dense.weight"].any()
    encoder(encoder.tokenize(TEXTS)).sum().backward()
    assert encoder.position.raw_a.grad is not None
    assert torch.isfinite(encoder.position.raw_a.grad).all()
    encoder.save(str(tmp_path / "merged"))
    found = TextEncoder.load(tmp_path / "merged")  # refuses NaN
    for name in ("pooler.dense.weight", "pooler.dense.bias"):
        assert torch.equal(found.weights()[name], encoder.base.weights()[name])


def test_the_angle_is_taken_over_all_weights_at_once(tmp_path: Path) -> None:
    encoder = merged(tmp_path)
    vectors = np.concatenate([v.detach().double().flatten(1).numpy() for v in encoder.vectors.parameters()], axis=1)
    (c,) = encoder.position.coefficients().detach().numpy()
    assert isinstance(encoder.position.method, Slerp)
    assert np.allclose(c @ vectors, obvious_slerp(vectors, [1.0, 1.0]), atol=1e-7)
