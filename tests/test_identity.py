"""What tells one model from another: every change changes exactly its own part, and saving anew changes none."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modules import Average, UserError
from modules.checkpoints.checkpoint_io import CheckpointWriter, TensorFile
from modules.checkpoints.identity import identity, settings_identity, weights_identity
from modules.checkpoints.lineage import read_lineage, write_lineage
from modules.checkpoints.tensor_hashes import hash_tensors
from modules.on_disk.merge_files import merge_files
from modules.on_disk.plan import Plan
from tests.tiny_checkpoints import edit_json, read_weights, save_models, write_weights
from tests.tiny_encoder import tiny_encoder, tiny_tokenizer

POOLING = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a Dense module, and an adapter of it."""
    folder = tmp_path_factory.mktemp("saved")
    model = folder / "model"
    tiny_encoder().save(model)
    modules = json.loads((model / "modules.json").read_text())
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    (model / "modules.json").write_text(json.dumps([*modules, dense]))
    (model / "3_Dense").mkdir()
    save_file({"linear.weight": torch.eye(16)}, model / "3_Dense" / "model.safetensors")
    (model / "3_Dense" / "config.json").write_text('{"in_features": 16, "out_features": 16, "bias": false}')
    (model / "modeling_own.py").write_text("x = 1\n")
    adapter = folder / "adapter"
    adapter.mkdir()
    factors = {f"base_model.model.a.lora_{kind}.weight": torch.ones(2, 2) for kind in "AB"}
    save_file(factors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of them, the adapter's config naming the model there."""
    shutil.copytree(saved, tmp_path / "models")
    edit_json(
        tmp_path / "models" / "adapter" / "adapter_config.json",
        base_model_name_or_path=str(tmp_path / "models" / "model"),
    )
    return tmp_path / "models"


@pytest.fixture
def model(folder: Path) -> Path:
    return folder / "model"


@pytest.fixture
def adapter(folder: Path) -> Path:
    return folder / "adapter"


def differing(one: Path, change: Callable[[], object]) -> set[str]:
    """The parts that a change of a folder changes."""
    before = identity(one)
    change()
    after = identity(one)
    parts = {part for part, value in asdict(before).items() if asdict(after)[part] != value}
    assert (str(before) == str(after)) == (not parts)
    return parts


def edit_tokenizer(folder: Path, key: str, value: object) -> None:
    edit_json(folder / "tokenizer.json", **{key: value})


def negate(file: Path) -> None:
    save_file({key: -tensor for key, tensor in load_file(file).items()}, file)


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a weight": ("weights", lambda m: negate(m / "model.safetensors")),
    "a weight of Dense": ("weights", lambda m: negate(m / "3_Dense" / "model.safetensors")),
    "a flag of the tokenizer": ("tokenizer", lambda m: edit_json(m / "tokenizer_config.json", add_bos_token=True)),
    "a part of the tokenizer": ("tokenizer", lambda m: edit_tokenizer(m, "normalizer", {"type": "Lowercase"})),
    "a vocabulary": ("tokenizer", lambda m: (m / "vocab.txt").write_text("a\nb\n")),
    "a token": (
        "tokenizer",
        lambda m: (m / "vocab.json").write_text('{"prompts": 3, "padding": 4, "pooling_mode": 5}'),
    ),
    "pooling": ("pipeline", lambda m: (m / "1_Pooling" / "config.json").write_text(json.dumps(POOLING))),
    "a prompt left out": ("pipeline", lambda m: edit_json(m / "1_Pooling" / "config.json", include_prompt=False)),
    "Dense": ("pipeline", lambda m: edit_json(m / "3_Dense" / "config.json", activation_function="torch.nn.Tanh")),
    "the config": ("pipeline", lambda m: edit_json(m / "config.json", hidden_dropout_prob=0.3)),
    "lower case": ("pipeline", lambda m: edit_json(m / "sentence_bert_config.json", do_lower_case=True)),
    "similarity": ("pipeline", lambda m: edit_json(m / "config_sentence_transformers.json", similarity_fn_name="dot")),
    "code": ("pipeline", lambda m: (m / "modeling_own.py").write_text("x = 2\n")),
    "prompts": ("prompts", lambda m: edit_json(m / "config_sentence_transformers.json", prompts={"query": "q: "})),
    "default": ("prompts", lambda m: edit_json(m / "config_sentence_transformers.json", default_prompt_name="query")),
    "the longest text": ("length", lambda m: edit_json(m / "sentence_bert_config.json", max_seq_length=7)),
    "the tokenizer's": ("length", lambda m: edit_json(m / "tokenizer_config.json", model_max_length=7)),
    "dimensions": ("length", lambda m: edit_json(m / "config_sentence_transformers.json", truncate_dim=8)),
    "an adapter": ("adapter", lambda m: (m / "adapter_config.json").write_text('{"r": 2}')),
    "an unknown file": ("other", lambda m: (m / "new.json").write_text("{}")),
    "weights that nothing reads": ("other", lambda m: save_file({"a": torch.ones(1)}, m / "more.safetensors")),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_changes_its_own_part(kind: str, model: Path) -> None:
    part, change = CHANGES[kind]
    assert differing(model, lambda: change(model)) == {part}


SAME: dict[str, Callable[[Path], object]] = {
    "white space and order": lambda m: [
        file.write_text(json.dumps(json.loads(file.read_text()), indent=3, sort_keys=True))
        for file in (*m.glob("*config*.json"), *m.glob("*/*.json"), m / "modules.json")
    ],
    "metadata": lambda m: save_file(read_weights(m), m / "model.safetensors", {"saved": "anew"}),
    "shards": lambda m: reshard(m, 2000),
    "what saved it": lambda m: edit_json(m / "config.json", transformers_version="9", _name_or_path="elsewhere"),
    "a name of the dtype": lambda m: rename(m / "config.json", "dtype", "torch_dtype"),
    "classes' new places": lambda m: (m / "modules.json").write_text(
        (m / "modules.json").read_text().replace(".models.", ".base.modules.pooling.")
    ),
    "pooling in its new form": lambda m: (m / "1_Pooling" / "config.json").write_text(
        '{"embedding_dimension": 16, "pooling_mode": "mean", "include_prompt": true}'
    ),
    "defaults": lambda m: edit_json(
        m / "config_sentence_transformers.json",
        model_type="SentenceTransformer",
        prompts={"query": "", "document": ""},
        __version__={"pytorch": "9"},
    ),
    "harmless files": lambda m: [
        (m / name).write_text("x") for name in ("README.md", "merge.json", "lineage.json", "pytorch_model.bin", ".new")
    ],
}


@pytest.mark.parametrize("kind", SAME)
def test_saving_anew_changes_nothing(kind: str, model: Path) -> None:
    assert differing(model, lambda: SAME[kind](model)) == set()


def reshard(folder: Path, max_bytes: int) -> None:
    """Write the weights again, in another order, as several files."""
    state = dict(sorted(read_weights(folder).items(), reverse=True))
    (folder / "model.safetensors").unlink()
    with CheckpointWriter(folder, {key: (t.dtype, tuple(t.shape)) for key, t in state.items()}, max_bytes) as writer:
        for key, tensor in state.items():
            writer.write(key, tensor)
    assert len(list(folder.glob("model-*.safetensors"))) > 2


def rename(file: Path, old: str, new: str) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({new if key == old else key: value for key, value in content.items()}))


def test_the_hash_of_a_tensor_tells_name_dtype_and_shape(tmp_path: Path) -> None:
    same_bytes = [
        {"a": torch.zeros(2, 2)},
        {"b": torch.zeros(2, 2)},
        {"a": torch.zeros(4)},
        {"a": torch.zeros(2, 2, dtype=torch.int32)},
    ]
    for i, state in enumerate(same_bytes):
        (tmp_path / str(i)).mkdir()
        write_weights(tmp_path / str(i), state)
    assert len({identity(tmp_path / str(i)).weights for i in range(4)}) == 4


def test_buffers_are_no_weights(model: Path) -> None:
    """Some versions save them, others do not."""
    state = read_weights(model) | {"embeddings.position_ids": torch.arange(64)[None]}
    assert differing(model, lambda: write_weights(model, state)) == {"other"}


def test_an_old_layout_has_the_identity_of_the_new_one(model: Path) -> None:
    old = model.with_name("old")
    shutil.copytree(model, old)
    (old / "0_Transformer").mkdir()
    for file in old.iterdir():
        if (
            file.is_file()
            and file.suffix != ".py"
            and file.name not in ("modules.json", "config_sentence_transformers.json")
        ):
            file.rename(old / "0_Transformer" / file.name)
    modules = json.loads((old / "modules.json").read_text())
    (old / "modules.json").write_text(json.dumps([modules[0] | {"path": "0_Transformer"}, *modules[1:]]))
    assert identity(old) == identity(model)
    negate(old / "0_Transformer" / "model.safetensors")
    assert replace(identity(old), weights="") == replace(identity(model), weights="")
    assert identity(old).weights != identity(model).weights


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    """A static embedding."""
    tiny_tokenizer().save_pretrained(tmp_path)
    write_weights(tmp_path, {"embedding.weight": torch.ones(4, 2)})
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"}
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    state = {"embedding.weight": torch.zeros(4, 2)}
    assert differing(tmp_path, lambda: write_weights(tmp_path, state)) == {"weights"}


ADAPTED: dict[str, Callable[[Path], object]] = {
    "scaling": lambda a: edit_json(a / "adapter_config.json", lora_alpha=8),
    "factors": lambda a: negate(a / "adapter_model.safetensors"),
    "the base's weights": lambda a: negate(a.with_name("model") / "model.safetensors"),
    "the base's prompts": lambda a: edit_json(
        a.with_name("model") / "config_sentence_transformers.json", prompts={"query": "q: "}
    ),
    "another base": lambda a: edit_json(a / "adapter_config.json", base_model_name_or_path="nowhere"),
}


@pytest.mark.parametrize("kind", ADAPTED)
def test_an_adapter_is_what_it_adds_and_what_it_adapts(kind: str, adapter: Path) -> None:
    assert identity(adapter.with_name("model")).adapter is None
    weights = weights_identity(adapter)
    assert differing(adapter, lambda: ADAPTED[kind](adapter)) == {"adapter"}
    assert (weights_identity(adapter) != weights) == (kind in ("scaling", "factors"))


def test_an_adapter_elsewhere_with_its_base_is_the_same(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter.parent, tmp_path / "elsewhere")
    other = tmp_path / "elsewhere" / "adapter"
    edit_json(other / "adapter_config.json", base_model_name_or_path=str(other.with_name("model")), peft_version="9")
    assert identity(other) == identity(adapter)


def test_an_adapter_that_names_itself(model: Path) -> None:
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    assert identity(model).adapter is not None


def test_settings_need_no_weights(model: Path) -> None:
    expected = {part: sha256 for part, sha256 in asdict(identity(model)).items() if part in settings_identity(model)}
    (model / "model.safetensors").write_bytes(b"broken")
    assert settings_identity(model) == expected
    assert list(expected) == ["tokenizer", "pipeline", "prompts", "length"]


def test_damaged_files_give_one_line(model: Path) -> None:
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"model.safetensors is cut short: it has \d+ bytes of"):
        identity(model)
    (model / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UserError, match="tokenizer_config.json does not hold what its name says"):
        settings_identity(model)
    (model / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json:1: not valid JSON"):
        settings_identity(model)


def test_float8_weights_have_an_identity(tmp_path: Path) -> None:
    """They can be scored, though not merged."""
    save_file({"a": torch.zeros(3).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    one = identity(tmp_path)
    save_file({"a": torch.ones(3).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    assert identity(tmp_path).weights != one.weights


# Files are read once


@pytest.mark.parametrize("order", ["file", "reverse", "some", "twice"])
def test_tensors_that_were_read_are_hashed_as_those_that_were_not(model: Path, order: str) -> None:
    copy = model.with_name("copy.safetensors")
    shutil.copyfile(model / "model.safetensors", copy)
    with safe_open(copy, "pt") as file:
        keys = list(file.keys())
    tensors = TensorFile(copy)
    for key in {"file": keys, "reverse": keys[::-1], "some": keys[1::2], "twice": keys + keys}[order]:
        tensors.read(key, torch.empty(tensors.tensors[key].shape, dtype=torch.float64))
    assert hash_tensors(copy) == hash_tensors(model / "model.safetensors")


def test_a_merge_on_disk_leaves_nothing_to_be_read_for_identities(tmp_path: Path) -> None:
    base, experts = save_models(tmp_path)
    known = {
        folder: weights_identity(shutil.copytree(folder, f"{folder}-copy")) for folder in (base, *experts.values())
    }
    record = merge_files(Plan(base, experts, Average()), tmp_path / "out", lambda line: None)
    assert record["base"]["sha256"] == known[base]
    assert [e["sha256"] for e in record["experts"].values()] == [known[folder] for folder in experts.values()]
    for folder in known:
        file = Path(folder) / "model.safetensors"
        header = file.read_bytes()[: -sum(t.nbytes for t in read_weights(folder).values())]
        stat = file.stat()
        file.write_bytes(header.ljust(stat.st_size, b"\0"))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert weights_identity(folder) == known[folder]


def test_a_process_that_changes_a_file_sees_the_change(model: Path) -> None:
    before = identity(model)
    negate(model / "model.safetensors")
    assert identity(model).weights != before.weights
    negate(model / "model.safetensors")
    assert identity(model) == before
    edit_tokenizer(model, "normalizer", {"type": "NFC"})
    first = identity(model).tokenizer
    edit_tokenizer(model, "normalizer", {"type": "NFD"})
    assert len({before.tokenizer, first, identity(model).tokenizer}) == 3


# Lineage


def test_a_lineage_by_other_hashes_says_nothing(tmp_path: Path) -> None:
    lines: list[str] = []
    write_lineage(tmp_path, ["a", "b"])
    assert read_lineage(tmp_path, lines.append) == ["a", "b"] and lines == []
    (tmp_path / "lineage.json").write_text('{"ancestors": ["0123456789"]}')
    assert read_lineage(tmp_path, lines.append) is None
    assert lines == [
        f"{tmp_path}/lineage.json names models by hashes of files, not of tensors: it counts as saying nothing"
    ]
    (tmp_path / "lineage.json").write_text("[]")
    with pytest.raises(UserError, match="not a record of ancestors"):
        read_lineage(tmp_path)


def test_an_expert_with_an_older_lineage_is_merged(tmp_path: Path) -> None:
    base, experts = save_models(tmp_path)
    (Path(experts["e0"]) / "lineage.json").write_text('{"ancestors": ["0123456789"]}')
    lines: list[str] = []
    merge_files(Plan(base, experts, Average()), tmp_path / "out", lines.append)
    assert sum("it counts as saying nothing" in line for line in lines) == 1
    assert read_lineage(tmp_path / "out") == [weights_identity(base)]
