"""Models with Python code of their own: compared, merged, saved, loaded again, and run only where that is allowed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from modules import Average, Expert, MergeModule, TextEncoder, UserError
from modules.checkpoints.base_model import find_base_model
from modules.on_disk.merge_files import merge_files
from modules.on_disk.plan import Plan
from modules.positioning.task_vectors import load_task_vectors
from tests.test_base_model import cached
from tests.tiny_checkpoints import edit_json, read_weights, save_models, write_weights

CONFIGURATION = """from transformers import BertConfig
class OwnConfig(BertConfig):
    model_type = "own_bert"
"""
MODELING = """from transformers import BertModel
from .configuration_own import OwnConfig
class OwnModel(BertModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config, add_pooling_layer=False)
"""
CLASSES = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
FILES = {"configuration_own.py", "modeling_own.py"}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``base``, ``e0`` and ``e1``, whose code lies beside their weights."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    save_models(tmp_path)
    for name in ("base", "e0", "e1"):
        (tmp_path / name / "configuration_own.py").write_text(CONFIGURATION)
        (tmp_path / name / "modeling_own.py").write_text(MODELING)
        edit_json(tmp_path / name / "config.json", model_type="own_bert", architectures=["OwnModel"], auto_map=CLASSES)
    return tmp_path


def experts(models: Path) -> dict[str, str]:
    return {name: str(models / name) for name in ("e0", "e1")}


def merge(models: Path) -> str:
    lines: list[str] = []
    merge_files(Plan(str(models / "base"), experts(models), Average()), models / "out", lines.append)
    return "\n".join(lines)


def code_of(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.py")}


def test_both_routes_carry_the_code_and_the_result_loads(models: Path) -> None:
    said = "the model's own code is carried along (configuration_own.py, modeling_own.py): read it before you allow it"
    assert said in merge(models)
    module = MergeModule(
        str(models / "base"),
        {name: Expert(path=path) for name, path in experts(models).items()},
        Average(),
        trust_remote_code=True,
    )
    module.save(models / "saved")
    for folder in (models / "out", models / "saved"):
        assert code_of(folder) == FILES
        loaded = TextEncoder.load(folder, trust_remote_code=True)
        assert type(loaded.backbone).__name__ == "OwnModel"
        theirs = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
        assert (loaded.encode(["a red cat"]) - torch.tensor(theirs.encode(["a red cat"]))).abs().max() < 1e-5
    merged, saved = read_weights(models / "out"), read_weights(models / "saved")
    assert all(torch.equal(saved[key], weight) for key, weight in merged.items())


def test_code_that_is_not_allowed_is_not_run(models: Path) -> None:
    with pytest.raises(UserError, match="base has code of its own; read it, then allow it with trust_remote_code"):
        TextEncoder.load(models / "base")
    (models / "e0" / "modeling_own.py").write_text(MODELING + "1 / 0\n")
    (models / "e1" / "modeling_own.py").write_text(MODELING + "1 / 0\n")
    (models / "base" / "modeling_own.py").write_text(MODELING + "1 / 0\n")
    merge(models)  # reads weights only


def refused(models: Path, message: str) -> None:
    """By both routes."""
    with pytest.raises(UserError, match=message):
        merge(models)
    base = TextEncoder.load(models / "base", trust_remote_code=True)
    with pytest.raises(UserError, match=message):
        load_task_vectors(base, experts(models), trust_remote_code=True)


def test_code_that_differs_is_refused(models: Path) -> None:
    (models / "e1" / "modeling_own.py").write_text(MODELING + "# another revision\n")
    refused(models, "expert 'e1' .* has another modeling_own.py than the base; merge models that share their code")


def test_another_class_is_refused(models: Path) -> None:
    edit_json(models / "e0" / "config.json", auto_map=CLASSES | {"AutoModel": "modeling_own.OtherModel"})
    refused(
        models, "expert 'e0' .* computes with AutoModel modeling_own.OtherModel, the base with modeling_own.OwnModel"
    )


def test_an_expert_that_leaves_its_code_in_a_repository(models: Path) -> None:
    """As transformers saves it: the class is the same, the code lies elsewhere."""
    for name in FILES:
        (models / "e0" / name).unlink()
    elsewhere = {key: f"org/repo--{name}" for key, name in CLASSES.items()}
    edit_json(models / "e0" / "config.json", auto_map=elsewhere)
    merge(models)
    assert json.loads((models / "out" / "config.json").read_text())["auto_map"] == CLASSES
    shutil.rmtree(models / "out")
    edit_json(models / "base" / "config.json", auto_map=elsewhere)
    merge(models)
    assert json.loads((models / "out" / "config.json").read_text())["auto_map"] == elsewhere


def test_an_adapter_as_output_leaves_the_code_with_the_base(models: Path) -> None:
    for name in ("e0", "e1"):
        weights = read_weights(models / "base")
        weights["encoder.layer.0.output.dense.weight"] += 0.01 * (1 + (name == "e1")) * torch.randn(16, 32)
        write_weights(models / name, weights)
    lines: list[str] = []
    plan = Plan(str(models / "base"), experts(models), Average(), adapter_rank=4)
    merge_files(plan, models / "out", lines.append)
    assert code_of(models / "out") == set() and "own code" not in "\n".join(lines)


def test_a_cached_model_without_its_code_is_fetched_again_where_the_code_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    snapshot = cached(tmp_path, "org/name", "config.json", "model.safetensors")
    assert find_base_model("org/name", code=True) == snapshot  # it has none
    (snapshot / "config.json").write_text(json.dumps({"auto_map": CLASSES}))
    assert find_base_model("org/name") == snapshot
    with pytest.raises(UserError, match="not reached on the hub"):
        find_base_model("org/name", code=True)
    for name in FILES:
        (snapshot / name).write_text("")
    assert find_base_model("org/name", code=True) == snapshot
    (snapshot / "modeling_own.py").unlink()
    (snapshot / "config.json").write_text(
        json.dumps({"auto_map": CLASSES | {"AutoModel": "org/other--modeling_own.OwnModel"}})
    )
    assert find_base_model("org/name", code=True) == snapshot
