"""Merging on disk against flat float64 vectors, the in-memory route, and checkpoints as they are in the wild."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, BertConfig, BertForMaskedLM, BertModel, LlamaConfig, LlamaForCausalLM, LlamaModel

from modules import gram
from modules.checkpoints import task_vector_files, tensor_hashes
from modules.checkpoints.checkpoint_io import TensorFile
from modules.checkpoints.identity import weights_identity
from modules.checkpoints.lineage import read_lineage, write_lineage
from modules.encoding.text_encoder import TextEncoder
from modules.errors import UserError
from modules.merging import (
    Average,
    Breadcrumbs,
    Dare,
    Della,
    Fisher,
    Karcher,
    Lines,
    MergeMethod,
    ModelStock,
    MultiSlerp,
    NuSlerp,
    RegMean,
    Sce,
    Slerp,
    SphericalMean,
    TaskArithmetic,
    Ties,
)
from modules.merging.combine import combine
from modules.merging.granularity import groups_of
from modules.on_disk import kept_grams
from modules.on_disk import merge_files as merging
from modules.on_disk.merge_files import merge_files
from modules.on_disk.plan import Plan
from modules.positioning.position import merge_coefficients
from modules.positioning.task_vectors import gram_matrices, load_task_vectors, prepare_vectors
from tests.model_cards import cells
from tests.tiny_checkpoints import (
    UNTOUCHED,
    State,
    edit_json,
    flat,
    flat_task_vectors,
    read_weights,
    save_models,
    write_weights,
)

A = [0.7, 1.0, 1.6]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and three experts, to be copied."""
    folder = tmp_path_factory.mktemp("models")
    save_models(folder, 3)
    return folder


@pytest.fixture
def base(models: Path, tmp_path: Path) -> str:
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    torch.manual_seed(0)
    return str(tmp_path / "base")


@pytest.fixture
def experts(base: str) -> dict[str, str]:
    return {f"e{i}": str(Path(base).with_name(f"e{i}")) for i in range(3)}


def merge(
    base: str, experts: dict[str, str], method: MergeMethod | None = None, **options: Any
) -> tuple[State, Any, str]:
    """The merged weights, what merge.json says, and what was printed."""
    lines: list[str] = []
    out = Path(base).with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    record = merge_files(Plan(base, experts, method or Average(), **options), out, lines.append)
    assert json.loads((out / "merge.json").read_text()) == record
    return read_weights(out), record, "\n".join(lines)


# The obvious versions, on flat vectors [N, P].


def average(v: np.ndarray, a: np.ndarray) -> np.ndarray:
    return a @ v / a.sum()


def slerp(v: np.ndarray, a: np.ndarray) -> np.ndarray:
    merged = v[0]
    for k in range(1, len(a)):
        s = a[k] / (a[:k].mean() + a[k])
        alpha = math.acos(merged @ v[k] / (np.linalg.norm(merged) * np.linalg.norm(v[k])))
        merged = (math.sin((1 - s) * alpha) * merged + math.sin(s * alpha) * v[k]) / math.sin(alpha)
    return merged


def multi_slerp(v: np.ndarray, a: np.ndarray) -> np.ndarray:
    w, norms = a / a.sum(), np.linalg.norm(v, axis=1)
    direction = (w / norms) @ v
    return direction / np.linalg.norm(direction) * (w @ norms)


def ties(v: np.ndarray, a: np.ndarray) -> np.ndarray:
    kept = max(1, int(0.3 * v.shape[1]))
    trimmed = np.stack([np.where(abs(row) >= np.sort(abs(row))[-kept], row, 0) for row in v])
    agree = trimmed * np.where(trimmed.sum(0) >= 0, 1, -1) > 0
    total = (a[:, None] * agree).sum(0)
    return np.where(total > 0, (a[:, None] * agree * trimmed).sum(0) / np.where(total > 0, total, 1), 0)


METHODS: dict[str, tuple[MergeMethod, Callable[..., np.ndarray]]] = {
    "average": (Average(), average),
    "arithmetic": (TaskArithmetic(), lambda v, a: a @ v),
    "slerp": (Slerp(), slerp),
    "multi_slerp": (MultiSlerp(), multi_slerp),
}


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() < 1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", METHODS)
def test_a_merge_equals_the_flat_version(name: str, base: str, experts: dict[str, str]) -> None:
    method, obvious = METHODS[name]
    merged, _, _ = merge(base, experts, method, a=A, scale=0.9)
    vectors = flat_task_vectors(base, experts)
    assert close(flat(merged), flat(read_weights(base)) + 0.9 * obvious(vectors, np.array(A)))


def test_ties_equals_the_flat_version_on_what_was_changed(base: str, experts: dict[str, str]) -> None:
    merged, _, _ = merge(base, experts, Ties(0.3), a=A)
    state, others = read_weights(base), [read_weights(folder) for folder in experts.values()]
    changed = [key for key in state if key != UNTOUCHED]  # what no expert changed does not count as trimmed
    vectors = np.stack([flat({k: o[k] - state[k] for k in changed}) for o in others])
    expected = flat({k: state[k] for k in changed}) + ties(vectors, np.array(A))
    assert close(flat({k: merged[k] for k in changed}), expected)


def write_statistics(
    experts: dict[str, str], kind: str, make: Callable[[str, torch.Tensor], torch.Tensor | None]
) -> None:
    for folder in experts.values():
        made = {name: make(name, weight) for name, weight in read_weights(folder).items()}
        (Path(folder) / "statistics").mkdir(exist_ok=True)
        kept = {name: tensor for name, tensor in made.items() if tensor is not None}
        about = {"weights": weights_identity(folder)}
        save_file(kept, Path(folder) / "statistics" / f"{kind}.safetensors", metadata=about)


def test_fisher_equals_the_flat_version(base: str, experts: dict[str, str]) -> None:
    write_statistics(experts, "fisher", lambda name, weight: torch.rand_like(weight))
    fisher = np.stack([flat(read_weights(Path(f) / "statistics")) for f in experts.values()])
    merged, _, _ = merge(base, experts, Fisher(), a=A)
    weights = np.array(A)[:, None] * fisher
    expected = flat(read_weights(base)) + (weights * flat_task_vectors(base, experts)).sum(0) / weights.sum(0)
    assert close(flat(merged), expected)


def test_reg_mean_equals_the_formula(base: str, experts: dict[str, str]) -> None:
    def gram(name: str, weight: torch.Tensor) -> torch.Tensor | None:
        inputs = torch.randn(40, weight.shape[-1])
        return inputs.T @ inputs if weight.ndim == 2 and "embeddings" not in name else None

    write_statistics(experts, "input_gram", gram)
    merged, _, _ = merge(base, experts, RegMean(1.0))
    name = "encoder.layer.1.intermediate.dense.weight"
    grams = [read_weights(Path(f) / "statistics")[name].double() for f in experts.values()]
    weights = [read_weights(folder)[name].double() for folder in experts.values()]
    expected = torch.linalg.solve(sum(grams), sum(g @ w.T for g, w in zip(grams, weights, strict=True))).T
    assert torch.allclose(merged[name].double(), expected, rtol=0, atol=1e-6)
    bias = name.replace("weight", "bias")
    mean = sum(read_weights(folder)[bias] for folder in experts.values()) / 3
    assert torch.allclose(merged[bias], mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", [Fisher(), RegMean()])
def test_missing_statistics_say_how_to_get_them(method: MergeMethod, base: str, experts: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"e0 has no .*statistics.* run fit with"):
        merge(base, experts, method)


SAME_BITS = [
    (Average(), "model"),
    (Slerp(["e2", "e0", "e1"]), "model"),
    (Slerp(), "layer"),
    (SphericalMean(), 2),
    (MultiSlerp(), "tensor"),
    (Ties(0.3), "model"),
    (Ties(0.3, per_tensor=True), "layer"),
    (Dare(Slerp(), 0.6, 3), "layer"),
    (Dare(Ties(0.5), 0.6), "model"),
    (Karcher(), "layer"),
    (ModelStock(), "model"),
    (Sce(0.4), "model"),
    (Breadcrumbs(density=0.4, gamma=0.1), "model"),
    (Breadcrumbs(Karcher(), 0.4, 0.1), "layer"),
    (Della(), "model"),
    (Della(Slerp(), 0.6, 0.3, 3), "tensor"),
    (Lines(Ties(0.4), 0.2, 0.6), "model"),
    (Lines(Slerp()), "model"),
    (Lines(Dare(Karcher()), 0.2, 0.6), 2),
]


@pytest.fixture(params=[False, True], ids=["whole", "in parts"])
def in_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Parts far smaller than the tensors, the last of each smaller still; or such that all tensors are whole."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))  # angles kept by the other way differ in their last bits
    if request.param:
        monkeypatch.setattr(task_vector_files, "PART", 100)
        monkeypatch.setattr(gram, "CHUNK", 100)
        monkeypatch.setattr(kept_grams, "CHUNK", 100)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize(("method", "granularity"), SAME_BITS)
def test_a_merge_has_the_bits_of_the_route_in_memory(
    method: MergeMethod, granularity: str | int, base: str, experts: dict[str, str]
) -> None:
    merged, record, _ = merge(base, experts, method, a=A, scale=1.1, granularity=granularity)
    encoder = TextEncoder.load(base)
    vectors = load_task_vectors(encoder, experts)
    groups = groups_of(vectors, granularity)
    prepared = prepare_vectors(method, vectors)
    grams = gram_matrices({name: p.vectors for name, p in prepared.items()}, groups)
    order = [list(experts).index(name) for name in method.order or experts]
    labels = list(dict.fromkeys(groups.values()))
    a = torch.tensor(A, dtype=torch.float64)
    c = dict(zip(labels, 1.1 * merge_coefficients(method, a.expand(len(labels), -1), grams, order), strict=True))
    for name, weight in encoder.backbone.named_parameters():
        expected = weight
        if name in prepared:
            expected = combine(weight, prepared[name].vectors, c[groups[name]], prepared[name].importance)
        assert torch.equal(merged[name], expected), name
    assert set(record["coefficients"]) >= set(labels)
    assert all(list(record["coefficients"][k].values()) == c[k].tolist() for k in labels)


def test_nu_slerp_has_the_bits_of_slerp_between_two(base: str, experts: dict[str, str]) -> None:
    two = {name: experts[name] for name in ("e0", "e1")}
    expected, _, _ = merge(base, two, Slerp(), a=A[:2])
    merged, _, _ = merge(base, two, NuSlerp(), a=A[:2])
    assert all(torch.equal(merged[key], weight) for key, weight in expected.items())


REFUSED: dict[str, tuple[MergeMethod, list[str], str]] = {
    "nu_slerp": (NuSlerp(), ["e0", "e1", "e2"], "NuSlerp is between two experts, not 3"),
    "model_stock": (ModelStock(), ["e0"], "ModelStock takes the angle between task vectors, and 'e0' is one"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_experts_that_a_method_does_not_take(case: str, base: str, experts: dict[str, str]) -> None:
    method, names, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        merge(base, {name: experts[name] for name in names}, method)
    assert not list(Path(base).parent.glob("*out*"))


def test_scale_zero_is_the_base(base: str, experts: dict[str, str]) -> None:
    merged, _, _ = merge(base, experts, Slerp(), scale=0.0)
    assert all(torch.equal(merged[key], weight) for key, weight in read_weights(base).items())


def test_a_negative_coefficient_subtracts(base: str, experts: dict[str, str]) -> None:
    merged, _, _ = merge(base, experts, TaskArithmetic(), a=[1.0, -0.5, 0.0])
    assert close(flat(merged), flat(read_weights(base)) + [1, -0.5, 0] @ flat_task_vectors(base, experts))


def test_the_output_is_sharded_carries_everything_and_loads(base: str, experts: dict[str, str]) -> None:
    (Path(base) / "pytorch_model.bin").write_bytes(b"a pickle")
    (Path(base) / "statistics").mkdir()
    write_lineage(base, ["grandparent"])
    edit_json(Path(base) / "config_sentence_transformers.json", prompts={"query": "query: "})
    for folder in experts.values():
        edit_json(Path(folder) / "config_sentence_transformers.json", prompts={"query": "query: "})
        write_lineage(folder, ["grandparent", weights_identity(base)])
    merged, record, _ = merge(base, experts, max_shard_bytes=10_000)
    out = Path(base).with_name("out")
    assert len(list(out.glob("model-*.safetensors"))) > 2
    names = {path.name for path in out.iterdir()}
    assert {"tokenizer.json", "config.json", "modules.json", "1_Pooling", "2_Normalize", "README.md"} <= names
    assert not names & {"pytorch_model.bin", "statistics"}
    assert read_lineage(out) == ["grandparent", weights_identity(base)]
    assert [e["sha256"] for e in record["experts"].values()] == [weights_identity(f) for f in experts.values()]
    assert record["base"]["sha256"] == weights_identity(base)
    models, coefficients = cells(ModelCard.load(out / "README.md"), "e1")
    assert models == ["e1", "`e1`", f"`{weights_identity(experts['e1'])}`"] and coefficients == ["e1", "1", "0.3333"]
    loaded = AutoModel.from_pretrained(out).state_dict()
    assert all(torch.equal(loaded[key], weight) for key, weight in merged.items())
    model = SentenceTransformer(str(out), device="cpu")
    assert model.prompts["query"] == "query: "
    ours = TextEncoder.load(out).encode(["the red cat"])
    assert np.allclose(model.encode(["the red cat"]), ours, atol=1e-6)
    again = out.with_name("again")
    merge_files(Plan(str(out), experts, Average(), allow_suspicious=True), again, lambda line: None)
    assert read_weights(again).keys() == merged.keys()  # shards can be read


def test_accumulation_is_in_float32_whatever_the_dtype(base: str, experts: dict[str, str]) -> None:
    exact, _, _ = merge(base, experts, Slerp())
    merged, _, _ = merge(base, experts, Slerp(), dtype=torch.bfloat16)
    assert all(torch.equal(merged[key], weight.bfloat16()) for key, weight in exact.items())
    config = json.loads((Path(base).with_name("out") / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == "bfloat16"


def test_dense_modules_are_merged(base: str, experts: dict[str, str]) -> None:
    dense = {"linear.weight": torch.randn(8, 16), "linear.bias": torch.randn(8)}
    for i, folder in enumerate([base, *experts.values()]):
        part = Path(folder) / "2_Dense"
        part.mkdir()
        save_file({key: t + 0.01 * i for key, t in dense.items()}, part / "model.safetensors")
        (part / "config.json").write_text('{"in_features": 16, "out_features": 8, "bias": true}')
        modules = json.loads((Path(folder) / "modules.json").read_text())
        modules[2] |= {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
        (Path(folder) / "modules.json").write_text(json.dumps(modules))
    merge(base, experts)
    out = Path(base).with_name("out") / "2_Dense"
    assert torch.allclose(read_weights(out)["linear.weight"], dense["linear.weight"] + 0.02)
    assert json.loads((out / "config.json").read_text())["out_features"] == 8
    (Path(experts["e1"]) / "2_Dense" / "config.json").write_text('{"in_features": 16, "out_features": 8}')
    with pytest.raises(UserError, match="has 2_Dense/config.json .*, the base .*; they must agree"):
        merge(base, experts)


# Harmless differences


def rename(state: State, prefix: str) -> State:
    return {prefix + key: weight for key, weight in state.items()}


HARMLESS: dict[str, tuple[Callable[[State], State], str]] = {
    "buffers": (lambda s: s | {"embeddings.position_ids": torch.arange(64)[None]}, "heads or buffers that the base"),
    "pooler": (lambda s: s | {"pooler.dense.bias": torch.ones(16)}, "has a pooler, the base has none: it is left out"),
    "head": (lambda s: s | {"lm_head.bias": torch.ones(9)}, r"the base lacks \(1\): lm_head.bias"),
    "prefix": (lambda s: rename(s, "bert.") | {"cls.predictions.bias": torch.ones(9)}, "names are matched"),
    "wrapper": (lambda s: rename(s, "0.auto_model."), "calls embeddings.LayerNorm.bias 0.auto_model.embeddings.Lay"),
    "old names": (lambda s: {k.replace("LayerNorm.weight", "LayerNorm.gamma"): t for k, t in s.items()}, "are matched"),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_harmless_differences_are_handled_and_said(case: str, base: str, experts: dict[str, str]) -> None:
    change, said = HARMLESS[case]
    expected, _, before = merge(base, experts, Slerp())
    assert not [line for line in before.splitlines() if line.startswith("expert")]
    write_weights(experts["e1"], change(read_weights(experts["e1"])))
    merged, _, lines = merge(base, experts, Slerp())
    assert (
        all(torch.equal(merged[key], weight) for key, weight in expected.items()) and merged.keys() == expected.keys()
    )
    assert len([line for line in lines.splitlines() if "expert 'e1'" in line]) == (2 if case == "prefix" else 1)
    assert re.search(said, lines)


def test_a_prefix_of_the_base_is_kept(base: str, experts: dict[str, str]) -> None:
    expected, _, _ = merge(base, experts, Dare(Slerp()))
    write_weights(base, rename(read_weights(base), "bert.") | {"bert.embeddings.position_ids": torch.arange(64)[None]})
    merged, _, _ = merge(base, experts, Dare(Slerp()))
    assert torch.equal(merged.pop("bert.embeddings.position_ids"), torch.arange(64)[None])
    assert all(torch.equal(merged["bert." + key], weight) for key, weight in expected.items())


def test_a_pooler_that_one_expert_lacks_is_the_base_s(base: str, experts: dict[str, str]) -> None:
    for i, folder in enumerate([base, *experts.values()][:3]):
        write_weights(folder, read_weights(folder) | {"pooler.dense.bias": torch.full((16,), 1.0 + i)})
    merged, _, lines = merge(base, experts)
    assert torch.equal(merged["pooler.dense.bias"], torch.ones(16))
    assert f"expert 'e2' ({experts['e2']}) has no pooler: the base's is kept" in lines


def test_dtypes_may_be_mixed(base: str, experts: dict[str, str]) -> None:
    half = {key: weight.bfloat16() for key, weight in read_weights(experts["e0"]).items()}
    write_weights(experts["e0"], half)
    merged, _, lines = merge(base, experts)
    assert f"expert 'e0' ({experts['e0']}) is in bfloat16: merged in float32" in lines
    assert close(flat(merged), flat(read_weights(base)) + flat_task_vectors(base, experts).mean(0))


def decoders(folder: Path, tied: bool) -> tuple[str, dict[str, str]]:
    """A plain decoder, and experts saved as language models, with a head."""
    shape = LlamaConfig(
        vocab_size=18,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    model = LlamaModel(shape)
    model.save_pretrained(folder / "base")
    for i in (1, 2):
        expert = LlamaForCausalLM(shape)
        with torch.no_grad():
            for name, weight in expert.model.named_parameters():
                weight.copy_(model.state_dict()[name] + 0.003 * torch.randn_like(weight))
        expert.save_pretrained(folder / f"e{i}")
    return str(folder / "base"), {f"e{i}": str(folder / f"e{i}") for i in (1, 2)}


@pytest.mark.parametrize("tied", [False, True])
def test_a_decoder_is_matched_with_its_language_model(tied: bool, tmp_path: Path) -> None:
    base, experts = decoders(tmp_path, tied)
    if tied:  # as some libraries save it
        state = read_weights(experts["e1"])
        write_weights(experts["e1"], state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()})
    merged, _, lines = merge(base, experts, Slerp(), a=[1.0, 2.0])
    assert ("stores tied weights twice (lm_head.weight): read once" in lines) == tied
    state = read_weights(base)
    vectors = np.stack(
        [flat({k: read_weights(f)["model." + k] for k in state}) - flat(state) for f in experts.values()]
    )
    assert close(flat(merged), flat(state) + slerp(vectors, np.array([1.0, 2.0])))
    loaded = AutoModel.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[key], weight) for key, weight in merged.items())


def test_a_tied_head_of_the_base_is_left_out(tmp_path: Path) -> None:
    _, experts = decoders(tmp_path, tied=True)
    base = experts.pop("e1")
    state = read_weights(base)
    write_weights(base, state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()})
    merged, _, lines = merge(base, experts)
    assert merged.keys() == state.keys()
    assert "lm_head.weight of the base is tied to another weight: left out" in lines


def test_a_plain_base_takes_the_layout_of_its_experts(base: str, experts: dict[str, str]) -> None:
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (Path(base) / name).unlink()
    _, _, lines = merge(base, experts)
    assert f"modules, pooling, prompts and the longest text are those of expert 'e0' ({experts['e0']})" in lines
    assert TextEncoder.load(Path(base).with_name("out")).settings() == TextEncoder.load(experts["e0"]).settings()
    edit_json(Path(experts["e2"]) / "sentence_bert_config.json", max_seq_length=8)
    with pytest.raises(UserError, match="expert 'e2' .* has max_length 8, expert 'e0' .* 32; choose whose"):
        merge(base, experts)


# Refusals


def refused(
    base: str, experts: dict[str, str], message: str, method: MergeMethod | None = None, **options: Any
) -> None:
    with pytest.raises(UserError, match=message):
        merge(base, experts, method, **options)
    assert sorted(path.name for path in Path(base).parent.iterdir()) == ["base", "e0", "e1", "e2"]


KEY = "encoder.layer.0.output.dense.weight"

HARMFUL: dict[str, tuple[Callable[[State], State], str]] = {
    "missing": (
        lambda s: {key: weight for key, weight in s.items() if ".1." not in key},
        r"expert 'e1' .* lacks weights of the base \(16\): encoder.layer.1.[\w., ]+, \.\.\.; merge models of one arch",
    ),
    "extra": (
        lambda s: s | {"linear.weight": torch.ones(2)},
        r"has weights that the base lacks \(1\): linear.weight; m",
    ),
    "shape": (
        lambda s: s | {KEY: torch.ones(16, 31)},
        r"has other shapes than the base \(1\): encoder.layer.0.output.dense.weight \[16, 31\] for \[16, 32\]; merge",
    ),
    "nan": (lambda s: s | {KEY: s[KEY] * float("nan")}, f"{KEY} has NaN or infinite entries"),
    "inf": (lambda s: s | {KEY: s[KEY] + float("inf")}, f"{KEY} has NaN or infinite entries"),
}


@pytest.mark.parametrize("case", HARMFUL)
def test_weights_that_do_not_fit_are_refused(case: str, base: str, experts: dict[str, str]) -> None:
    change, message = HARMFUL[case]
    write_weights(experts["e1"], change(read_weights(experts["e1"])))
    refused(base, experts, message)


def test_a_broken_base_is_refused(base: str, experts: dict[str, str]) -> None:
    write_weights(base, HARMFUL["nan"][0](read_weights(base)))
    refused(base, experts, f"base/model.safetensors: {KEY} has NaN or infinite entries")


def test_another_architecture_is_refused(base: str, experts: dict[str, str]) -> None:
    edit_json(Path(experts["e2"]) / "config.json", num_attention_heads=4)
    refused(base, experts, "expert 'e2' .* has num_attention_heads 4, the base 2, so equal weights would")
    edit_json(Path(experts["e2"]) / "config.json", num_attention_heads=2, quantization_config={})
    refused(base, experts, "e2/config.json: quantised weights cannot be merged")


def test_another_vocabulary_is_refused(base: str, experts: dict[str, str]) -> None:
    path = Path(experts["e0"]) / "tokenizer.json"
    text = path.read_text()
    path.write_text(text.replace('"red": 6', '"blue": 6').replace('"blue": 7', '"red": 7'))
    assert path.read_text() != text
    refused(
        base, experts, "expert 'e0' .* has another vocabulary: token 'red' is 7, in the base 6; merge models that share"
    )
    path.write_text(text.replace('"sky"', '"sea"'))
    refused(base, experts, "token 'sky' is not there, in the base 11; merge")
    path.unlink()
    merge(base, experts)  # what an expert does not say is as in the base


def test_other_settings_are_refused(base: str, experts: dict[str, str]) -> None:
    folder = Path(experts["e1"])
    for name, changes, message in (
        (
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            "pooling ['cls']",
        ),
        ("sentence_bert_config.json", {"max_seq_length": 16}, "max_length 16, the base 32"),
        ("config_sentence_transformers.json", {"prompts": {"query": "q: "}}, "prompts {'query': 'q: '}, the base {}"),
    ):
        text = (folder / name).read_text()
        edit_json(folder / name, **changes)
        refused(base, experts, "expert 'e1' .* has " + message.replace("[", r"\[").replace("{", r"\{"))
        (folder / name).write_text(text)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    refused(base, experts, "has modules 'Transformer > Pooling', the base 'Transformer > Pooling > Normalize'")
    (folder / "modules.json").unlink()
    merge(base, experts)


@pytest.mark.parametrize("method", [Average(), Slerp()])
def test_suspicious_experts_are_refused_unless_insisted(
    method: MergeMethod, base: str, experts: dict[str, str]
) -> None:
    weights = read_weights(experts["e1"])
    write_weights(experts["e1"], read_weights(base))
    refused(base, experts, "expert 'e1' equals the base: its task vector has norm 0", method)
    write_weights(experts["e1"], read_weights(experts["e0"]))
    refused(base, experts, "experts 'e0' and 'e1' are the same", method)
    merge(base, experts, method, allow_suspicious=True)
    shutil.rmtree(Path(base).with_name("out"))
    torch.manual_seed(5)
    write_weights(experts["e1"], {key: weight + torch.randn_like(weight) for key, weight in weights.items()})
    refused(base, experts, "expert 'e1' does not come from this base", method)
    write_weights(experts["e1"], weights)
    write_lineage(experts["e1"], ["0123456789abcdef"])
    refused(base, experts, "expert 'e1' was trained from another base: it records 0123456789ab, this base is", method)
    merge(base, experts, method, allow_suspicious=True)


def test_mistakes_show_before_anything_is_read(
    base: str, experts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorFile, "read", None)
    refused(base, experts, "2 coefficients are given for 3 experts; give one each", a=[1.0, 2.0])
    refused(base, experts, r"the order \['e0', 'x'\] of Slerp does not name each of the experts", Slerp(["e0", "x"]))
    refused(base, experts, "granularity is 'row'; use model, layer, tensor or a number", granularity="row")
    refused(base, experts, "of Average are all 0 and name no direction; give one that is not", a=[0.0, 0.0, 0.0])
    refused(base, experts | {"x": "nowhere"}, "model 'nowhere' not found")


def test_an_output_that_is_taken_is_refused(
    base: str, experts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(base).with_name("out")
    out.mkdir()
    merge_files(Plan(base, experts, Average()), out)  # an empty folder is free
    monkeypatch.setattr(merging, "find_base_model", None)
    with pytest.raises(UserError, match="out exists already; remove it or choose another --out"):
        merge_files(Plan(base, experts, Average()), out)


def test_a_merge_that_fails_leaves_nothing(base: str, experts: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        assert list(Path(base).parent.glob(".out.partial-*/model.safetensors"))
        raise KeyboardInterrupt

    monkeypatch.setattr(merging, "write_records", stop)
    with pytest.raises(KeyboardInterrupt):
        merge(base, experts)
    assert sorted(path.name for path in Path(base).parent.iterdir()) == ["base", "e0", "e1", "e2"]


def test_a_killed_merge_leaves_no_output(base: str, experts: dict[str, str]) -> None:
    code = (
        "import os, signal, sys\n"
        "from modules.on_disk import merge_files as m\n"
        "from modules.merging import Average\n"
        "m.write_records = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "m.merge_files(m.Plan(sys.argv[1], {'e0': sys.argv[2], 'e1': sys.argv[3]}, Average()), sys.argv[4])\n"
    )
    out = str(Path(base).with_name("out"))
    done = subprocess.run([sys.executable, "-c", code, base, experts["e0"], experts["e1"], out], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    left = {path.name for path in Path(base).parent.iterdir()} - {"base", "e0", "e1", "e2"}
    assert len(left) == 1
    assert left.pop().startswith(".out.partial-")


# Angles


def test_angles_are_kept_in_the_users_cache_by_identity(
    base: str, experts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    measure = kept_grams.measure
    monkeypatch.setattr(merging, "measure", lambda *given: (passes.append(1), measure(*given))[1])
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = {path: path.stat().st_mtime_ns for folder in experts.values() for path in Path(folder).rglob("*")}
    expected, _, _ = merge(base, experts, Slerp())
    again, _, lines = merge(base, experts, Slerp())
    merge(base, experts, MultiSlerp(), granularity="layer")
    assert len(passes) == 1
    assert f"angles are known from an earlier merge: {tmp_path}/cache/huggingface/embedding-angles/" in lines
    assert all(torch.equal(again[key], expected[key]) for key in expected)
    merge(base, experts, Dare(Slerp(), 0.5))
    merge(base, experts, Dare(Slerp(), 0.5, seed=1))
    assert len(passes) == 3
    assert before == {path: path.stat().st_mtime_ns for folder in experts.values() for path in Path(folder).rglob("*")}
    moved = shutil.copytree(experts["e2"], tmp_path / "elsewhere")
    merge(base, experts | {"e2": str(moved)}, Slerp())
    assert len(passes) == 3
    weights = read_weights(moved)
    write_weights(str(moved), weights | {KEY: weights[KEY] + 0.001})
    merge(base, experts | {"e2": str(moved)}, Slerp())
    merge(base, dict(reversed(experts.items())), Slerp())
    assert len(passes) == 5
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("in the way")
    _, _, lines = merge(base, experts, Slerp())
    assert "angles are not kept for the next merge" in lines


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize(("method", "reads"), [(Average(), 1), (Slerp(), 2)])
def test_how_often_every_byte_is_read(
    method: MergeMethod, reads: int, base: str, experts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = merge(base, experts, method)[1]
    tensor_hashes._known_hashes.cache_clear()  # as in a process of its own
    counted: list[int] = []
    fill, hashed = TensorFile._fill, tensor_hashes._hash

    def counting_fill(self: TensorFile, part: torch.Tensor, place: int, digest: Any) -> None:
        counted.append(part.nbytes)
        fill(self, part, place, digest)

    def counting_hash(file: Any, entry: tensor_hashes.Entry, path: Path) -> str:
        counted.append(entry.end - entry.start)
        return hashed(file, entry, path)

    monkeypatch.setattr(TensorFile, "_fill", counting_fill)
    monkeypatch.setattr(tensor_hashes, "_hash", counting_hash)
    assert merge(base, experts, method)[1] == expected
    whole = sum(t.nbytes for f in [base, *experts.values()] for t in read_weights(f).values())
    assert sum(counted) == reads * whole  # known angles are found by the hash of the models


def test_a_masked_language_model_merges_with_its_encoder(tmp_path: Path) -> None:
    shape = BertConfig(vocab_size=18, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    torch.manual_seed(0)
    model = BertForMaskedLM(shape)
    model.save_pretrained(tmp_path / "base")
    for i in range(2):
        expert = BertModel(shape)
        expert.load_state_dict(model.bert.state_dict(), strict=False)
        with torch.no_grad():
            for weight in expert.parameters():
                weight.add_(0.002 * torch.randn_like(weight))
        expert.save_pretrained(tmp_path / f"e{i}")
    merged, _, lines = merge(str(tmp_path / "base"), {f"e{i}": str(tmp_path / f"e{i}") for i in range(2)})
    assert "has a pooler, the base has none: it is left out" in lines
    state = read_weights(tmp_path / "base")
    assert merged.keys() == state.keys()
    for key, weight in merged.items():
        name = key.removeprefix("bert.")
        mean = sum(read_weights(tmp_path / f"e{i}").get(name, state[key]) for i in range(2)) / 2
        assert torch.allclose(weight, mean, rtol=0, atol=1e-6), key
