"""One verdict on two models, whichever route asks: what is refused, what is handled and said, what is chosen."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors

from modules import Average, TextEncoder, UserError
from modules.compatibility.config_differences import config_difference
from modules.compatibility.tokenizer_differences import tokenizer_difference
from modules.on_disk.merge_files import merge_files
from modules.on_disk.plan import Plan
from modules.positioning.task_vectors import load_task_vectors
from tests.tiny_checkpoints import edit_json, read_weights, save_models, write_weights
from tests.tiny_encoder import pooling_of

Route = Callable[..., list[str]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_models(folder)
    return folder


@pytest.fixture
def models(saved: Path, tmp_path: Path) -> Path:
    """A folder with ``base``, ``e0`` and ``e1``, to be changed."""
    shutil.copytree(saved, tmp_path / "models")
    return tmp_path / "models"


def experts(models: Path) -> dict[str, str]:
    return {name: str(models / name) for name in ("e0", "e1")}


def in_memory(models: Path, pooling: str | None = None, settings_of: str | None = None) -> list[str]:
    lines: list[str] = []
    base = TextEncoder.load(models / "base", pooling=pooling)
    load_task_vectors(base, experts(models), settings_of, pooling, say=lines.append)
    base.save(models / "out")
    return lines


def on_disk(models: Path, settings_of: str | None = None) -> list[str]:
    lines: list[str] = []
    plan = Plan(str(models / "base"), experts(models), Average(), settings_of=settings_of)
    merge_files(plan, models / "out", lines.append)
    return lines[:-1]  # the last is "wrote ..."


both_routes = pytest.mark.parametrize("route", [in_memory, on_disk])


def refused(route: Route, models: Path, message: str, **options: Any) -> None:
    with pytest.raises(UserError) as caught:
        route(models, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (models / "out").exists()


# Configs

MATTERS: dict[str, tuple[Any, Any]] = {
    "model_type": ("roberta", "bert"),
    "num_attention_heads": (4, 2),
    "hidden_act": ("relu", "gelu"),
    "layer_norm_eps": (1e-5, 1e-12),
    "is_decoder": (True, False),
    "position_embedding_type": ("relative_key", "absolute"),
    "num_hidden_layers": (1, 2),
    # what the class of this model does not know, another version or its own code may
    "is_causal": (True, None),
    "sliding_window": (8, None),
    "attention_scale": (0.5, None),
    "rope_theta": (1e6, None),
    "key_of_tomorrow": ("new", None),
}


@both_routes
@pytest.mark.parametrize("key", MATTERS)
def test_a_setting_that_changes_what_weights_compute_is_refused(key: str, route: Route, models: Path) -> None:
    theirs, ours = MATTERS[key]
    edit_json(models / "e1" / "config.json", **{key: theirs})
    refused(route, models, f"expert 'e1' ({models / 'e1'}) has {key} {theirs!r}, the base {ours!r}, so equal weights")


HARMLESS: dict[str, Any] = {
    "architectures": ["BertForMaskedLM"],
    "dtype": "bfloat16",
    "torch_dtype": "float16",
    "transformers_version": "4.0.0",
    "_name_or_path": "elsewhere",
    "use_cache": False,
    "hidden_dropout_prob": 0.3,
    "classifier_dropout": 0.2,
    "initializer_range": 1.0,
    "gradient_checkpointing": True,
    "pad_token_id": None,
    "eos_token_id": 7,
    "id2label": {"0": "yes"},
    "problem_type": "regression",
    "output_attentions": True,
    "tie_word_embeddings": False,
    "add_cross_attention": False,
}


@both_routes
def test_other_settings_are_nobody_s_business(route: Route, models: Path) -> None:
    edit_json(models / "e1" / "config.json", **HARMLESS)
    assert route(models) == []


def configs(folder: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[Path, Path]:
    for name, config in (("a", ours), ("b", theirs)):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    return folder / "a", folder / "b"


SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
GEMMA = {"model_type": "gemma3_text", **SHAPE}
QWEN = {"model_type": "qwen3", **SHAPE}
MODERN = {"model_type": "modernbert", "num_hidden_layers": 3}

FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "causal mask": (GEMMA, {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    "activation": (GEMMA, {"hidden_activation": "relu"}, "hidden_activation"),
    "attention scale": (GEMMA, {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar"),
    "window": (GEMMA, {"sliding_window": 8}, "sliding_window"),
    "kinds of layers": (GEMMA, {"layer_types": ["full_attention"] * 3}, "layer_types[0]"),
    "rope": (QWEN, {"rope_theta": 5000.0}, "rope_parameters.rope_theta"),
    "scaled rope": (
        QWEN,
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        "rope_parameters.rope_type",
    ),
    "norm": (QWEN, {"rms_norm_eps": 1e-5}, "rms_norm_eps"),
    "local attention": (MODERN, {"local_attention": 64}, "local_attention"),
    "local rope": (
        MODERN,
        {"local_rope_theta": 500.0},
        "rope_parameters.sliding_attention.rope_theta",
    ),
    "relative positions": ({"model_type": "t5"}, {"relative_attention_max_distance": 64}, "relative_attention_max_d"),
    "padding of positions": ({"model_type": "xlm-roberta"}, {"pad_token_id": 3}, "pad_token_id"),
    "code of its own": ({"model_type": "mine", "alibi": 8}, {"alibi": 4}, "alibi"),
    "code of its own, new key": ({"model_type": "mine"}, {"alibi": 4}, "alibi"),
}


@pytest.mark.parametrize("case", FAMILIES)
def test_every_family_has_settings_that_matter(case: str, tmp_path: Path) -> None:
    ours, change, key = FAMILIES[case]
    found = config_difference(*configs(tmp_path, ours, ours | change))
    assert found is not None and found[0].startswith(key)


EQUAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a default is said": (QWEN, QWEN | {"rms_norm_eps": 1e-6, "hidden_act": "silu"}),
    "rope, before and after transformers 5": (
        QWEN | {"rope_theta": 1000000, "rope_scaling": None, "torch_dtype": "bfloat16"},
        QWEN | {"rope_parameters": {"rope_theta": 1000000, "rope_type": "default"}, "dtype": "float32"},
    ),
    "a window that is not used": (
        QWEN | {"use_sliding_window": False, "sliding_window": 4096},
        QWEN | {"use_sliding_window": False, "sliding_window": None},
    ),
    "more positions, which rotate as before": (QWEN, QWEN | {"max_position_embeddings": 40960}),
    "kinds of layers written out": (
        GEMMA | {"sliding_window_pattern": 3},
        GEMMA | {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    ),
    "a key that newer classes no longer have": (
        {"model_type": "bert", "position_embedding_type": "absolute"},
        {"model_type": "bert"},
    ),
    "the padding of a decoder": (QWEN | {"pad_token_id": 3}, QWEN | {"pad_token_id": 7}),
    "nothing said by its own code": ({"model_type": "mine"}, {"model_type": "mine", "alibi": None, "causal": False}),
}


@pytest.mark.parametrize("case", EQUAL)
def test_forms_of_one_config_are_equal(case: str, tmp_path: Path) -> None:
    assert config_difference(*configs(tmp_path, *EQUAL[case])) is None


# Tokenizers


def change_tokenizer(folder: Path, change: Callable[[Tokenizer], None]) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    change(tokenizer)
    tokenizer.save(str(folder / "tokenizer.json"))


def lower(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Lowercase()


def split(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()


def no_end(tokenizer: Tokenizer) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])


def whole_word(tokenizer: Tokenizer) -> None:
    tokenizer.add_tokens(["cat"])


TOKENISING: dict[str, tuple[Callable[[Tokenizer], None], str]] = {
    "lower-casing": (lower, "makes other tokens of a text: normalizer is {'type': 'Lowercase'}, in the base None"),
    "splitting": (split, "pre_tokenizer.type is 'Whitespace', in the base 'BertPreTokenizer'"),
    "end of text": (no_end, "post_processor.type is 'TemplateProcessing', in the base 'BertProcessing'"),
    "added token": (whole_word, "added_tokens.cat is {"),
}


@both_routes
@pytest.mark.parametrize("case", TOKENISING)
def test_a_tokenizer_that_makes_other_tokens_is_refused(case: str, route: Route, models: Path) -> None:
    change, message = TOKENISING[case]
    change_tokenizer(models / "e0", change)
    refused(route, models, message)


def limit(tokenizer: Tokenizer) -> None:
    tokenizer.enable_truncation(7)
    tokenizer.enable_padding(length=9)


@both_routes
def test_limits_and_padding_of_a_tokenizer_file_are_nobody_s_business(route: Route, models: Path) -> None:
    change_tokenizer(models / "e0", limit)
    edit_json(models / "e1" / "tokenizer_config.json", name_or_path="elsewhere", is_local=True)
    assert route(models) == []


@both_routes
def test_another_vocabulary_is_refused(route: Route, models: Path) -> None:
    path = models / "e0" / "tokenizer.json"
    path.write_text(path.read_text().replace('"sky"', '"sea"'))
    refused(route, models, "has another vocabulary: token 'sky' is not there, in the base 11; merge models that share")


def bert_tokenizer(folder: Path, **config: Any) -> Path:
    """As transformers 4 saved it: a vocabulary, and flags that its class reads."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "##s"]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **config}))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


@pytest.mark.parametrize(
    ("ours", "theirs", "place"),
    [
        ({"do_lower_case": True}, {"do_lower_case": False}, "normalizer.lowercase is False, in the base True"),
        ({}, {"do_lower_case": False}, "normalizer.lowercase is False, in the base True"),
        ({}, {"strip_accents": False}, "normalizer.strip_accents is False, in the base None"),
        ({}, {"truncation_side": "left"}, "truncation_side is 'left', in the base 'right'"),
        ({}, {"do_lower_case": True, "model_max_length": 8, "clean_up_tokenization_spaces": True}, None),
    ],
)
def test_flags_of_a_tokenizer_are_what_its_class_makes_of_them(
    ours: dict[str, Any], theirs: dict[str, Any], place: str | None, tmp_path: Path
) -> None:
    found = tokenizer_difference(bert_tokenizer(tmp_path / "a", **ours), bert_tokenizer(tmp_path / "b", **theirs))
    assert found == (place and f"makes other tokens of a text: {place}")


def test_a_vocabulary_and_the_file_made_of_it_are_one_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    old = bert_tokenizer(tmp_path / "a", do_lower_case=False)
    AutoTokenizer.from_pretrained(old).save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "tokenizer.json").is_file()
    assert tokenizer_difference(old, tmp_path / "b") is None
    edit_json(tmp_path / "b" / "tokenizer_config.json", do_lower_case=True)
    assert "normalizer.lowercase is True" in str(tokenizer_difference(old, tmp_path / "b"))


# Settings of texts


def set_settings(folder: Path, max_length: int, prompts: dict[str, str]) -> None:
    edit_json(folder / "sentence_bert_config.json", max_seq_length=max_length)
    default = next(iter(prompts), None)
    edit_json(folder / "config_sentence_transformers.json", prompts=prompts, default_prompt_name=default)


@both_routes
def test_settings_of_texts_are_the_user_s_to_choose(route: Route, models: Path) -> None:
    set_settings(models / "e1", 16, {"query": "query : "})
    choice = "choose whose the merge takes with --settings_of (settings_of in a recipe's model): base, e0, e1"
    refused(route, models, f"expert 'e1' ({models / 'e1'}) has max_length 16, the base 32; {choice}")
    refused(route, models, "settings_of is 'e2'; it is base or one of e0, e1", settings_of="e2")
    (line,) = route(models, settings_of="e1")
    assert line == (
        "max_length 16, prompts {'query': 'query : '}, default_prompt_name 'query': as settings_of says, that of "
        f"expert 'e1' ({models / 'e1'})"
    )
    assert TextEncoder.load(models / "out").settings() == TextEncoder.load(models / "e1").settings()
    shutil.rmtree(models / "out")
    (line,) = route(models, settings_of="base")
    assert line.startswith("max_length 32, prompts {}, default_prompt_name None: as settings_of says, that of the base")
    assert TextEncoder.load(models / "out").settings() == TextEncoder.load(models / "base").settings()


@both_routes
def test_a_choice_that_nothing_hangs_on_is_not_mentioned(route: Route, models: Path) -> None:
    assert route(models, settings_of="e0") == []


def test_chosen_settings_are_written_in_every_form(models: Path) -> None:
    """Newer sentence-transformers keep the longest text with the tokenizer."""
    from sentence_transformers import SentenceTransformer

    for name, length in (("base", 32), ("e0", 32), ("e1", 16)):
        edit_json(models / name / "tokenizer_config.json", model_max_length=length)
        path = models / name / "sentence_bert_config.json"
        path.write_text('{"transformer_task": "feature-extraction"}')
    on_disk(models, settings_of="e1")
    assert SentenceTransformer(str(models / "out"), device="cpu").max_seq_length == 16


# Pipelines


def make_plain(folder: Path) -> None:
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "1_Pooling")


@both_routes
@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            "has pooling ['cls'], the base ['mean']",
        ),
        ("1_Pooling/config.json", {"include_prompt": False}, "has include_prompt False, the base True"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "has do_lower_case True, the base False"),
    ],
)
def test_another_pipeline_is_refused(
    file: str, change: dict[str, Any], message: str, route: Route, models: Path
) -> None:
    edit_json(models / "e1" / file, **change)
    refused(route, models, f"expert 'e1' ({models / 'e1'}) {message}; they must agree")


def test_lower_casing_that_the_tokenizer_does_anyway_is_no_difference(models: Path) -> None:
    """As sentence-transformers leaves it, which drops the flag on saving."""
    for name in ("base", "e0", "e1"):
        change_tokenizer(models / name, lower)
    edit_json(models / "base" / "sentence_bert_config.json", do_lower_case=True)
    assert on_disk(models) == []


@both_routes
@pytest.mark.parametrize("without", ["base", "e1"])
def test_with_and_without_normalize_is_refused(without: str, route: Route, models: Path) -> None:
    path = models / without / "modules.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:2]))
    refused(route, models, "Transformer > Pooling > Normalize'")


@both_routes
def test_a_plain_base_takes_the_pipeline_of_its_experts(route: Route, models: Path) -> None:
    make_plain(models / "base")
    for name in ("e0", "e1"):
        set_settings(models / name, 16, {"query": "query : "})
        edit_json(
            models / name / "1_Pooling" / "config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False
        )
    (line,) = route(models)
    assert line == (
        f"modules, pooling, prompts and the longest text are those of expert 'e0' ({models / 'e0'}); "
        "the base says nothing of them"
    )
    assert TextEncoder.load(models / "out").settings() == TextEncoder.load(models / "e0").settings()
    shutil.rmtree(models / "out")
    set_settings(models / "e1", 8, {})
    refused(route, models, f"has max_length 8, expert 'e0' ({models / 'e0'}) 16; choose")
    refused(
        route, models, "settings_of is 'base', whose folder says nothing of it: name one of e0, e1", settings_of="base"
    )


def test_a_pooling_that_was_told_is_not_replaced(models: Path) -> None:
    make_plain(models / "base")
    refused(in_memory, models, "e0 pools by mean, not by cls: leave the pooling out", pooling="cls")


@both_routes
def test_a_plain_expert_is_read_as_the_base_is(route: Route, models: Path) -> None:
    make_plain(models / "e1")
    assert route(models) == []


def test_a_plain_base_with_plain_experts_pools_as_told(models: Path) -> None:
    for name in ("base", "e0", "e1"):
        make_plain(models / name)
    assert in_memory(models, pooling="cls") == []
    assert pooling_of(TextEncoder.load(models / "out")) == "cls"


POOLER = {"pooler.dense.weight": torch.eye(16), "pooler.dense.bias": torch.ones(16)}


@both_routes
@pytest.mark.parametrize("owner", ["base", "e0"])
def test_a_pooler_on_one_side_is_said(owner: str, route: Route, models: Path) -> None:
    write_weights(models / owner, read_weights(models / owner) | POOLER)
    lines = route(models)
    if owner == "base":
        assert [line.split(") ")[1] for line in lines] == ["has no pooler: the base's is kept"] * 2
        merged = read_weights(models / "out")
        assert all(torch.equal(merged[key], weight) for key, weight in POOLER.items())
    else:
        assert [line.split(") ")[1] for line in lines] == ["has a pooler, the base has none: it is left out"]
        assert "pooler.dense.bias" not in read_weights(models / "out")


def test_a_pooler_that_one_expert_lacks_has_no_task_vector(models: Path) -> None:
    write_weights(models / "base", read_weights(models / "base") | POOLER)
    moved = {key: weight + 0.1 for key, weight in POOLER.items()}
    write_weights(models / "e0", read_weights(models / "e0") | moved)
    vectors = load_task_vectors(TextEncoder.load(models / "base"), experts(models), say=lambda line: None)
    assert not any(name.startswith("pooler.") for name in vectors)


# Names that lead out of a folder


@both_routes
@pytest.mark.parametrize("name", ["../outside/x.safetensors", "/tmp/x.safetensors", "..\\x.safetensors", "C:\\x"])
def test_a_shard_outside_the_folder_is_refused(name: str, route: Route, models: Path) -> None:
    weights = read_weights(models / "e0")
    (models / "outside").mkdir()
    (models / "e0" / "model.safetensors").rename(models / "outside" / "x.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (models / "e0" / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(route, models, f"model.safetensors.index.json names {name!r}, which is outside the model's folder")


@both_routes
@pytest.mark.parametrize("path", ["../base/1_Pooling", "/tmp", "1_Pooling/../../e1/1_Pooling"])
def test_a_module_outside_the_folder_is_refused(path: str, route: Route, models: Path) -> None:
    modules = json.loads((models / "e0" / "modules.json").read_text())
    modules[1]["path"] = path
    (models / "e0" / "modules.json").write_text(json.dumps(modules))
    refused(route, models, f"modules.json names {path!r}, which is outside the model's folder")


@both_routes
def test_links_as_in_a_cache_are_followed(route: Route, models: Path) -> None:
    (models / "blobs").mkdir()
    for file in [*(models / "e0").glob("*.safetensors"), models / "e0" / "config.json"]:
        file.rename(models / "blobs" / file.name)
        file.symlink_to(models / "blobs" / file.name)
    assert route(models) == []


@both_routes
def test_a_folder_with_a_model_and_an_adapter_is_refused(route: Route, models: Path) -> None:
    (models / "e0" / "adapter_config.json").write_text('{"base_model_name_or_path": "../elsewhere"}')
    refused(route, models, "e0 holds both a model and an adapter")
