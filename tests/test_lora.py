"""Adapters, written here by hand in PEFT's layout, against the dense formula."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.checkpoints.lineage import write_lineage
from modules.errors import UserError
from modules.merging import Average, MergeMethod, MultiSlerp, Slerp
from modules.on_disk.merge_files import merge_files
from modules.on_disk.plan import Plan
from tests.tiny_checkpoints import State, read_weights, save_models, write_weights

QUERY = "encoder.layer.0.attention.self.query"
OUTPUT = "encoder.layer.1.output.dense"
WORDS = "embeddings.word_embeddings"


def factors(seed: int, prefix: str = "", rank: int = 2) -> State:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 0.05 * torch.randn(shape, generator=generator)

    root = f"base_model.model.{prefix}"
    return {
        f"{root}{QUERY}.lora_A.weight": draw(rank, 16),
        f"{root}{QUERY}.lora_B.weight": draw(16, rank),
        f"{root}{OUTPUT}.lora_A.weight": draw(rank, 32),
        f"{root}{OUTPUT}.lora_B.weight": draw(16, rank),
        f"{root}{WORDS}.lora_embedding_A": draw(rank, 18),
        f"{root}{WORDS}.lora_embedding_B": draw(16, rank),
    }


def write_adapter(folder: Path, tensors: State, **config: Any) -> str:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    standard = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none", "fan_in_fan_out": False}
    (folder / "adapter_config.json").write_text(json.dumps(standard | config))
    return str(folder)


def dense(tensors: State, scaling: dict[str, float], prefix: str = "") -> State:
    """The adapter as a difference of weights."""
    root = f"base_model.model.{prefix}"
    words = tensors[f"{root}{WORDS}.lora_embedding_B"] @ tensors[f"{root}{WORDS}.lora_embedding_A"]
    linear = {m: tensors[f"{root}{m}.lora_B.weight"] @ tensors[f"{root}{m}.lora_A.weight"] for m in (QUERY, OUTPUT)}
    return {f"{m}.weight": scaling[m] * product for m, product in (linear | {WORDS: words.T}).items()}


def merge(base: str, experts: dict[str, str], method: MergeMethod | None = None, **options: Any) -> tuple[Path, Any]:
    out = Path(base).with_name("out")
    return out, merge_files(Plan(base, experts, method or Average(), **options), out, lambda line: None)


@pytest.fixture
def base(tmp_path: Path) -> str:
    return save_models(tmp_path, 1)[0]


CONFIGS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "plain": ({}, {QUERY: 3, OUTPUT: 3, WORDS: 3}),
    "rslora": ({"use_rslora": True}, {m: 6 / math.sqrt(2) for m in (QUERY, OUTPUT, WORDS)}),
    "patterns": ({"alpha_pattern": {"output.dense": 1, "layer.1.query": 9}}, {QUERY: 3, OUTPUT: 0.5, WORDS: 3}),
}


@pytest.mark.parametrize("prefix", ["", "bert.", "0.auto_model."])
@pytest.mark.parametrize("case", CONFIGS)
def test_adapters_are_merged_as_products(case: str, prefix: str, base: str, tmp_path: Path) -> None:
    config, scaling = CONFIGS[case]
    tensors = [factors(seed, prefix) for seed in (1, 2)]
    experts = {f"a{i}": write_adapter(tmp_path / f"a{i}", t, **config) for i, t in enumerate(tensors)}
    out, _ = merge(base, experts, a=[1.0, 3.0])
    differences = [dense(t, scaling, prefix) for t in tensors]
    merged = read_weights(out)
    for key, weight in read_weights(base).items():
        expected = weight
        if key in differences[0]:
            expected = weight.double() + 0.25 * differences[0][key] + 0.75 * differences[1][key]
        assert torch.allclose(merged[key].double(), expected.double(), rtol=0, atol=1e-6), key


def test_the_rank_of_a_module_may_be_its_own(base: str, tmp_path: Path) -> None:
    tensors = factors(1) | {k: t for k, t in factors(3, rank=3).items() if OUTPUT in k}
    config = {"rank_pattern": {OUTPUT: 3}}
    out, _ = merge(base, {"a": write_adapter(tmp_path / "a", tensors, **config)})
    difference = dense(tensors, {QUERY: 3, OUTPUT: 2, WORDS: 3})
    for key, expected in difference.items():
        assert torch.allclose(read_weights(out)[key], read_weights(base)[key] + expected, rtol=0, atol=1e-6)


def test_transposed_weights_take_the_transposed_product(base: str, tmp_path: Path) -> None:
    tensors = {k: t for k, t in factors(1).items() if QUERY in k}
    out, _ = merge(base, {"a": write_adapter(tmp_path / "a", tensors, fan_in_fan_out=True)})
    b, a = tensors[f"base_model.model.{QUERY}.lora_B.weight"], tensors[f"base_model.model.{QUERY}.lora_A.weight"]
    expected = read_weights(base)[f"{QUERY}.weight"] + 3 * (b @ a).T
    assert torch.allclose(read_weights(out)[f"{QUERY}.weight"], expected, rtol=0, atol=1e-6)


def test_adapters_and_whole_models_mix(base: str, tmp_path: Path) -> None:
    """An adapter gives what its model, merged into the base and saved whole, gives."""
    difference = dense(factors(1), {QUERY: 3, OUTPUT: 3, WORDS: 3})
    adapter = write_adapter(tmp_path / "a", factors(1))
    expert = str(tmp_path / "e0")
    out, _ = merge(base, {"a": adapter, "e0": expert}, Slerp(), a=[1.0, 2.0])
    mixed = read_weights(out)
    out.rename(tmp_path / "mixed")
    whole = tmp_path / "whole"
    (tmp_path / "mixed").rename(whole)
    write_weights(whole, {k: w + difference.get(k, torch.zeros(())) for k, w in read_weights(base).items()})
    (whole / "lineage.json").unlink()
    out, _ = merge(base, {"a": str(whole), "e0": expert}, Slerp(), a=[1.0, 2.0])
    assert all(torch.allclose(mixed[k], w, rtol=0, atol=1e-6) for k, w in read_weights(out).items())


def test_biases_and_whole_modules_of_an_adapter_are_weights(base: str, tmp_path: Path) -> None:
    weights = read_weights(base)
    trained = {
        f"base_model.model.{QUERY}.base_layer.bias": weights[f"{QUERY}.bias"] + 0.1,
        f"base_model.model.{OUTPUT}.bias": weights[f"{OUTPUT}.bias"] - 0.1,
        "base_model.model.classifier.weight": torch.ones(3, 16),  # a head, no part of an embedding
    }
    out, _ = merge(base, {"a": write_adapter(tmp_path / "a", factors(1) | trained, bias="lora_only")})
    merged = read_weights(out)
    assert torch.allclose(merged[f"{QUERY}.bias"], weights[f"{QUERY}.bias"] + 0.1)
    assert torch.allclose(merged[f"{OUTPUT}.bias"], weights[f"{OUTPUT}.bias"] - 0.1)
    assert merged.keys() == weights.keys()


REFUSED: dict[str, tuple[dict[str, Any], Callable[[State], State], str]] = {
    "ia3": ({"peft_type": "IA3"}, lambda t: t, "is an adapter of the kind IA3; LORA is supported"),
    "strange module": (
        {},
        lambda t: t | {"base_model.model.adapter_layer.lora_A.weight": torch.ones(2, 4)},
        r"keys that are no LoRA factors on the base's weights \(1\): base_model.model.adapter_layer.lora_A.weight",
    ),
    "strange key": (
        {},
        lambda t: t | {f"base_model.model.{QUERY}.lora_magnitude_vector": torch.ones(2)},
        r"no LoRA factors on the base's weights \(1\): .*lora_magnitude_vector",
    ),
    "shape": (
        {},
        lambda t: t | {f"base_model.model.{QUERY}.lora_A.weight": torch.ones(2, 15)},
        rf"does not fit the base's shapes \(1\): {QUERY}.weight",
    ),
    "half": (
        {},
        lambda t: {k: v for k, v in t.items() if f"{QUERY}.lora_B" not in k},
        rf"does not fit the base's shapes \(1\): {QUERY}.weight",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_sum_of_products_is_refused(case: str, base: str, tmp_path: Path) -> None:
    config, change, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        merge(base, {"a": write_adapter(tmp_path / "a", change(factors(1)), **config)})


# Every field of `peft.LoraConfig` 0.21 with a value in use.

TASK_VECTORS: dict[str, Any] = {
    "auto_mapping": {"base_model_class": "BertModel"},
    "base_model_name_or_path": "elsewhere",
    "bias": "all",
    "ensure_weight_tying": True,
    "eva_config": {"rho": 2.0},
    "exclude_modules": ["key"],
    "inference_mode": True,
    "layers_pattern": "layer",
    "layers_to_transform": [0, 1],
    "lora_dropout": 0.1,
    "megatron_core": "megatron.core",
    "modules_to_save": ["classifier"],
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "revision": "main",
    "target_modules": ["query"],
    "task_type": "FEATURE_EXTRACTION",
}
OTHERS: dict[str, Any] = {
    "alora_invocation_tokens": [5, 6],
    "arrow_config": {"top_k": 3},
    "corda_config": {"corda_method": "ipm"},
    "kasa_config": {"beta": 1e-4},
    "layer_replication": [[0, 2], [1, 2]],
    "loftq_config": {"loftq_bits": 4},
    "lora_bias": True,
    "lora_ga_config": {"direction": "ArB2r"},
    "megatron_config": {"tensor_model_parallel_size": 2},
    "monteclora_config": {"num_samples": 8},
    "target_parameters": ["query.weight"],
    "trainable_token_indices": [1, 2],
    "use_bdlora": {"nblocks": 2},
    "use_dora": True,
    "use_qalora": True,
    "velora_config": {"num_groups": 4},
    "field_of_tomorrow": 0.5,
}
UNUSED: dict[str, Any] = {key: type(value)() for key, value in OTHERS.items()}


def test_settings_with_which_an_adapter_is_a_task_vector(base: str, tmp_path: Path) -> None:
    merge(base, {"a": write_adapter(tmp_path / "a", factors(1), **TASK_VECTORS, **UNUSED)})
    shutil.rmtree(tmp_path / "out")
    merge(base, {"a": write_adapter(tmp_path / "a", factors(1), **dict.fromkeys(OTHERS))})


@pytest.mark.parametrize("key", OTHERS)
def test_any_other_setting_of_an_adapter_is_refused_by_its_name(key: str, base: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"expert 'a' .* is an adapter with {key} .*; merge it into its base first"):
        merge(base, {"a": write_adapter(tmp_path / "a", factors(1), **{key: OTHERS[key]})})


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "Gaussian", "eva", "orthogonal", "mica"])
def test_a_start_that_leaves_the_base_alone(start: Any, base: str, tmp_path: Path) -> None:
    merge(base, {"a": write_adapter(tmp_path / "a", factors(1), init_lora_weights=start)})


@pytest.mark.parametrize(
    "start", ["pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "lora_ga", "of_tomorrow", ["pissa"]]
)
def test_any_other_start_is_refused_by_its_name(start: Any, base: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"starts from init_lora_weights {re.escape(repr(start))}, which may have"):
        merge(base, {"a": write_adapter(tmp_path / "a", factors(1), init_lora_weights=start)})


def test_a_pickled_adapter_is_refused(base: str, tmp_path: Path) -> None:
    folder = Path(write_adapter(tmp_path / "a", factors(1)))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UserError, match="adapter_model.safetensors is missing beside adapter_config.json; save"):
        merge(base, {"a": str(folder)})


def test_an_adapter_of_another_base_is_refused(base: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", factors(1))
    write_lineage(folder, ["0123456789abcdef"])
    with pytest.raises(UserError, match="expert 'a' was trained from another base: it records 0123456789ab"):
        merge(base, {"a": folder})


def test_changed_settings_of_an_adapter_change_its_angles(base: str, tmp_path: Path) -> None:
    experts = {f"a{i}": write_adapter(tmp_path / f"a{i}", factors(i)) for i in (1, 2)}
    _, before = merge(base, experts, MultiSlerp())
    (tmp_path / "out").rename(tmp_path / "before")
    write_adapter(tmp_path / "a1", factors(1), lora_alpha=12)
    _, after = merge(base, experts, MultiSlerp())
    doubled = before["coefficients"]["model"]["a1"] / before["coefficients"]["model"]["a2"] / 2
    assert after["coefficients"]["model"]["a1"] / after["coefficients"]["model"]["a2"] == pytest.approx(doubled)
    assert not (tmp_path / "a1" / "statistics").exists()


# One adapter as the output


def read_adapter(folder: Path) -> State:
    """The difference of weights that an adapter written here stands for, as PEFT reads it."""
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and not config["fan_in_fan_out"]
    scaling = config["lora_alpha"] / config["r"]
    tensors = load_file(folder / "adapter_model.safetensors")
    found = {}
    for module in config["target_modules"]:
        root = f"base_model.model.{module}."
        if root + "lora_A.weight" in tensors:
            a, b = tensors.pop(root + "lora_A.weight"), tensors.pop(root + "lora_B.weight")
            found[f"{module}.weight"] = scaling * b @ a
        else:
            a, b = tensors.pop(root + "lora_embedding_A"), tensors.pop(root + "lora_embedding_B")
            found[f"{module}.weight"] = scaling * (b @ a).T
        assert len(a) == b.shape[1] == config["r"]
    assert not tensors
    return found


@pytest.mark.parametrize("rank", [4, 3, 40])
def test_a_merge_of_adapters_is_one_adapter(rank: int, base: str, tmp_path: Path) -> None:
    tensors = [factors(seed) for seed in (1, 2)]
    experts = {f"a{i}": write_adapter(tmp_path / f"a{i}", t) for i, t in enumerate(tensors)}
    out, record = merge(base, experts, adapter_rank=rank)
    scaling = {m: 3.0 for m in (QUERY, OUTPUT, WORDS)}
    first, second = (dense(t, scaling) for t in tensors)
    exact = {key: (first[key] + second[key]).double() / 2 for key in first}
    found = read_adapter(out)
    assert found.keys() == exact.keys()
    lost = {k: (found[k] - exact[k]).square().sum() for k in exact}
    errors = {k: math.sqrt(lost[k] / exact[k].square().sum()) for k in exact}
    total = math.sqrt(sum(lost.values()) / sum(v.square().sum() for v in exact.values()))
    summary = record["adapter"]
    assert summary["rank"] == rank
    assert summary["error"] == pytest.approx(total, rel=1e-3, abs=1e-6)
    assert summary["worst_error"] == pytest.approx(max(errors.values()), rel=1e-3, abs=1e-6)
    if rank < 4:
        assert summary["worst"] == max(errors, key=lambda k: errors[k])
        best = sum(torch.linalg.svdvals(v)[rank:].square().sum() for v in exact.values())
        assert float(sum(lost.values())) == pytest.approx(float(best), rel=1e-3)  # Eckart-Young
    else:
        assert total < 1e-6
    names = {path.name for path in out.iterdir()}
    assert {"README.md", "merge.json", "lineage.json", "tokenizer.json"} <= names
    assert not names & {"config.json", "model.safetensors"}


def test_an_adapter_merges_on(base: str, tmp_path: Path) -> None:
    experts = {f"a{i}": write_adapter(tmp_path / f"a{i}", factors(i)) for i in (1, 2)}
    out, _ = merge(base, experts)
    whole = read_weights(out)
    out.rename(tmp_path / "whole")
    out, _ = merge(base, experts, adapter_rank=4)
    adapter = out.rename(tmp_path / "adapter")
    out, _ = merge(base, {"adapter": str(adapter)})
    assert all(torch.allclose(whole[key], w, rtol=0, atol=1e-6) for key, w in read_weights(out).items())


def test_no_adapter_holds_what_is_no_matrix(base: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"what no adapter can hold \(22\): embeddings.LayerNorm.bias, .*; leave --ad"):
        merge(base, {"e0": str(tmp_path / "e0")}, adapter_rank=2)
    assert not list(tmp_path.glob(".out*"))
