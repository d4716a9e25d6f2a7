"""Encoders: what a folder says is what is computed, trained and saved; what cannot be is refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling
from torch import nn

from modules import Average, TextEncoder, UserError
from modules.checkpoints.text_settings import NO_LIMIT
from modules.json_files import read_json
from modules.on_disk.merge_files import merge_files
from modules.on_disk.plan import Plan
from modules.positioning.task_vectors import load_task_vectors
from tests.test_lora import factors, write_adapter
from tests.tiny_encoder import Settings, tiny_decoder, tiny_encoder
from tests.tiny_families import TEXTS as FAMILY_TEXTS
from tests.tiny_families import save_family, save_plain

TEXTS = ["a red cat", "the dog", "query : the sky is blue a red ball runs the dog sits", "ball"]


def edit(path: Path, **change: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | change))


def library(folder: Path, **options: Any) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", **options)


@pytest.mark.parametrize("make", [tiny_encoder, tiny_decoder])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", Pooling.POOLING_MODES)
def test_sentence_transformers_gives_the_same(tmp_path: Path, make: Any, normalize: bool, pooling: str) -> None:
    encoder = make(config=Settings(pooling, normalize, 8, {"query": "query : "}, "query", "dot"))
    encoder.save(tmp_path)
    theirs, ours = library(tmp_path), TextEncoder.load(tmp_path)
    assert ours.settings() == encoder.settings()
    expected = torch.tensor(theirs.encode(TEXTS, prompt=""))
    assert (ours.encode(TEXTS, batch_size=2) - expected).abs().max() < 1e-5
    assert (encoder.encode(TEXTS) - expected).abs().max() < 1e-5
    assert theirs.max_seq_length == ours.max_length == 8
    assert (theirs.prompts["query"], theirs.default_prompt_name, theirs.similarity_fn_name) == (
        "query : ",
        "query",
        "dot",
    )
    prompted = torch.tensor(theirs.encode(TEXTS, prompt_name="query"))
    assert (ours.encode(TEXTS, prompt="query : ") - prompted).abs().max() < 1e-5


@pytest.mark.parametrize("pooling", ["mean", "weightedmean", "cls", "lasttoken", "max"])
def test_a_pooling_that_leaves_prompts_out(tmp_path: Path, pooling: str) -> None:
    tiny_encoder(config=Settings(pooling, False, 32)).save(tmp_path)
    edit(tmp_path / "1_Pooling" / "config.json", include_prompt=False)
    theirs, ours = library(tmp_path), TextEncoder.load(tmp_path)
    prompts = ["query : ", "the red document : ", "", "query : "]
    rows = zip(TEXTS, prompts, strict=True)
    expected = torch.stack([theirs.encode(text, prompt=prompt, convert_to_tensor=True) for text, prompt in rows])
    # One field of lengths: each row as if it were alone.
    assert (ours(ours.tokenize(TEXTS, prompts=prompts)) - expected).abs().max() < 1e-5
    together = theirs.encode(TEXTS, prompt="query : ", convert_to_tensor=True)
    assert (ours.encode(TEXTS, prompt="query : ", batch_size=1) - together).abs().max() < 1e-5


@pytest.mark.parametrize("lower", [True, False])
def test_texts_are_lower_cased_where_the_folder_says_so(tmp_path: Path, lower: bool) -> None:
    folder = save_family("bert", tmp_path / "model")
    words = read_json(folder / "tokenizer.json")
    words["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(words))
    edit(folder / "sentence_bert_config.json", do_lower_case=lower)
    expected = library(folder).encode(FAMILY_TEXTS, convert_to_tensor=True)
    encoder = TextEncoder.load(folder)
    assert (encoder.encode(FAMILY_TEXTS) - expected).abs().max() < 1e-5
    assert bool((encoder.encode(["The Sky"]) - encoder.encode(["the sky"])).abs().max() < 1e-6) == lower
    encoder.save(tmp_path / "saved")
    saved = library(tmp_path / "saved").encode(FAMILY_TEXTS, convert_to_tensor=True)
    assert (saved - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config_sentence_transformers.json", {"truncate_dim": 5}),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"max_length": 6}}}),
        ("sentence_bert_config.json", {"processing_kwargs": {"common": {"add_special_tokens": False}}}),
        ("sentence_bert_config.json", {"max_seq_length": 7}),
    ],
)
def test_settings_of_a_folder_are_the_library_s(tmp_path: Path, file: str, change: dict[str, Any]) -> None:
    folder = save_family("bert", tmp_path / "model")
    edit(folder / file, **change)
    expected = library(folder).encode(FAMILY_TEXTS, convert_to_tensor=True)
    encoder = TextEncoder.load(folder)
    ours = encoder.encode(FAMILY_TEXTS)
    assert ours.shape == expected.shape == (len(FAMILY_TEXTS), encoder.dim)
    assert (ours - expected).abs().max() < 1e-5
    encoder.save(tmp_path / "saved")
    saved = library(tmp_path / "saved").encode(FAMILY_TEXTS, convert_to_tensor=True)
    assert (saved - expected).abs().max() < 1e-5


def old_layout(folder: Path) -> None:
    """As sentence-transformers 0.3 wrote it: the transformers checkpoint in a folder of its own."""
    (folder / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(folder / "0_Transformer" / name)
    (folder / "sentence_bert_config.json").unlink()
    edit(folder / "0_Transformer" / "sentence_roberta_config.json", max_seq_length=7, do_lower_case=False)
    modules = read_json(folder / "modules.json")
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))


def test_an_old_folder_layout(tmp_path: Path) -> None:
    folder = save_family("bert", tmp_path / "model")
    old_layout(folder)
    expected = library(folder).encode(FAMILY_TEXTS, convert_to_tensor=True)
    encoder = TextEncoder.load(folder)
    assert encoder.max_length == 7
    assert (encoder.encode(FAMILY_TEXTS) - expected).abs().max() < 1e-5
    encoder.save(tmp_path / "saved")
    saved = library(tmp_path / "saved").encode(FAMILY_TEXTS, convert_to_tensor=True)
    assert (saved - expected).abs().max() < 1e-5


def test_configs_in_a_folder_of_their_own_are_compared(tmp_path: Path) -> None:
    base = save_family("bert", tmp_path / "base")
    old_layout(base)
    shutil.copytree(base, tmp_path / "expert")
    edit(tmp_path / "expert" / "0_Transformer" / "config.json", hidden_act="relu")
    message = r"expert 'e' \(.*expert\) has hidden_act 'relu', the base 'gelu', so equal weights would"
    with pytest.raises(UserError, match=message):
        load_task_vectors(TextEncoder.load(base), {"e": str(tmp_path / "expert")})
    with pytest.raises(UserError, match=message):
        merge_files(Plan(str(base), {"e": str(tmp_path / "expert")}, Average()), tmp_path / "merged", lambda _: None)


def test_a_long_text_where_positions_are_counted_from_the_padding_token(tmp_path: Path) -> None:
    folder = save_family("xlm-roberta", tmp_path / "model")  # 66 places in its table, for 64 tokens
    long = "the sky is blue because of scattered light " * 20
    with pytest.raises((IndexError, RuntimeError)):
        library(folder).encode(long)
    encoder = TextEncoder.load(folder)
    assert encoder.max_length == 64
    encoder.save(tmp_path / "saved")
    saved = library(tmp_path / "saved")
    assert (saved.encode([long], convert_to_tensor=True) - encoder.encode([long])).abs().max() < 1e-5
    assert saved.max_seq_length == 64


def test_where_nothing_limits_a_text_nothing_is_cut(tmp_path: Path) -> None:
    encoder = TextEncoder.load(save_family("t5", tmp_path / "model"))
    assert encoder.max_length == NO_LIMIT
    assert encoder.tokenize(["the sky " * 500])["input_ids"].shape[1] > 1000
    assert encoder.tokenize(["the sky " * 500], 10)["input_ids"].shape[1] == 10


def test_a_text_without_tokens_is_embedded_as_padding(tmp_path: Path) -> None:
    encoder = TextEncoder.load(save_family("llama", tmp_path / "model"))
    assert encoder.tokenize(["", "the sky"])["attention_mask"].sum(1).tolist()[0] == 1
    static = TextEncoder.load(save_family("static", tmp_path / "static"))
    assert static.encode(["", "the sky"])[0].abs().max() == 0 == library(tmp_path / "static").encode([""]).max()


def test_an_adapter_alone_is_the_base_with_its_products(tmp_path: Path) -> None:
    base = tiny_encoder(config=Settings(max_length=8, prompts={"query": "query : "}))
    base.save(tmp_path / "base")
    adapter = write_adapter(tmp_path / "lora", factors(1), base_model_name_or_path=str(tmp_path / "base"))
    encoder = TextEncoder.load(adapter)
    query = "encoder.layer.0.attention.self.query.weight"
    tensors = {key.removeprefix("base_model.model."): value for key, value in factors(1).items()}
    name = query.removesuffix(".weight")
    product = tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
    assert torch.allclose(encoder.weights()[query], base.weights()[query] + 3 * product, atol=1e-6)
    assert encoder.settings() == base.settings()
    encoder.save(tmp_path / "saved")
    assert (
        library(tmp_path / "saved").encode(TEXTS, convert_to_tensor=True) - encoder.encode(TEXTS)
    ).abs().max() < 1e-5


def test_an_adapter_folder_has_its_own_pooling_and_prompts(tmp_path: Path) -> None:
    tiny_encoder().save(tmp_path / "base")
    tiny_encoder(config=Settings("cls", False, 8, {"query": "query : "})).save(tmp_path / "lora")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "lora" / name).unlink()
    write_adapter(tmp_path / "lora", factors(1), base_model_name_or_path=str(tmp_path / "base"))
    encoder = TextEncoder.load(tmp_path / "lora")
    pooling = encoder.pipeline[1]
    assert isinstance(pooling, Pooling)
    assert (pooling.pooling_mode, len(list(encoder.pipeline)), encoder.max_length) == ("cls", 2, 8)
    assert encoder.prompts["query"] == "query : "


def test_an_adapter_without_its_base(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not name the model that it adapts"):
        TextEncoder.load(write_adapter(tmp_path / "nameless", factors(1)))
    with pytest.raises(UserError, match="model 'gone/away' not found"):
        TextEncoder.load(write_adapter(tmp_path / "lost", factors(1), base_model_name_or_path="gone/away"))


def test_a_plain_checkpoint_pools_as_told(tmp_path: Path) -> None:
    encoder = TextEncoder.load(save_plain("bert", tmp_path / "plain"), pooling="cls")
    pooling = encoder.pipeline[1]
    assert isinstance(pooling, Pooling)
    assert (pooling.pooling_mode, encoder.max_length) == ("cls", 64)
    with pytest.raises(UserError, match="pooling 'widest' is unknown: use one of cls, max, mean"):
        TextEncoder.load(tmp_path / "plain", pooling="widest")


def test_another_pooling_than_the_model_says_is_refused(tmp_path: Path) -> None:
    tiny_encoder().save(tmp_path)
    with pytest.raises(UserError, match="pools by mean, not by cls"):
        TextEncoder.load(tmp_path, pooling="cls")


def lose_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def spoil_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut_short(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def only_pickles(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def pickled_dense(folder: Path) -> None:
    modules = [*list(library(folder))[:2], Dense(16, 4)]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    torch.save(load_file(folder / "2_Dense" / "model.safetensors"), folder / "2_Dense" / "pytorch_model.bin")
    (folder / "2_Dense" / "model.safetensors").unlink()


def module_of(kind: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        modules = read_json(folder / "modules.json")
        modules[0]["type"] = kind
        (folder / "modules.json").write_text(json.dumps(modules))

    return change


def unknown_pooling(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 16, "pooling_mode": "widest"})
    )


def both_kinds(folder: Path) -> None:
    write_adapter(folder, factors(1), base_model_name_or_path="anything")


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a weight is missing": (lose_a_weight, r"weights are missing \(1\).*: encoder.layer.1.output.dense.weight"),
    "a weight is NaN": (spoil_a_weight, r"NaN or infinite weights in 1 tensors: .*layer\.0\.output\.dense\.bias"),
    "weights are cut short": (cut_short, "is cut short"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no weights as model.safetensors or"),
    "pickles": (only_pickles, r"has no weights as model.safetensors or shards; save .* \(no pickles are read\)"),
    "a pickled Dense": (pickled_dense, "2_Dense/pytorch_model.bin is a pickle; save the model again as safetensors"),
    "a Router": (module_of("sentence_transformers.models.Router"), "a Router has several encoders; give the folder of"),
    "words": (module_of("sentence_transformers.models.Gone"), "cannot be loaded: "),
    "no modules": (lambda folder: (folder / "modules.json").write_text("{}"), "is no list of modules"),
    "a pooling that is none": (unknown_pooling, "cannot be loaded: Invalid pooling mode: 'widest'"),
    "an adapter beside it": (both_kinds, "holds both a model and an adapter"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "cannot be loaded: "),
    "no tokenizer": (lambda folder: [p.unlink() for p in folder.glob("tokenizer*")], "has no tokenizer, for which"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    damage, message = BROKEN[case]
    tiny_encoder().save(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(UserError, match=message) as error:
        TextEncoder.load(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a model folder: it holds none of config\.json, modules\.json"):
        TextEncoder.load(tmp_path)


class Squared(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.square()


def test_code_outside_torch_is_not_replaced_in_silence(tmp_path: Path) -> None:
    tiny_encoder().save(tmp_path / "plain")
    modules = [*list(library(tmp_path / "plain"))[:2], Dense(16, 4, activation_function=Squared())]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "dense"))
    with pytest.raises(UserError, match="the activation tests.test_encoder.Squared is code outside torch"):
        TextEncoder.load(tmp_path / "dense")
    encoder = TextEncoder.load(tmp_path / "dense", trust_remote_code=True)
    expected = library(tmp_path / "dense", trust_remote_code=True).encode(TEXTS, convert_to_tensor=True)
    assert (encoder.encode(TEXTS) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_padding_does_not_change_a_decoder_s_embedding(tmp_path: Path, pooling: str, side: str) -> None:
    tiny_decoder(Settings(pooling, max_length=32)).save(tmp_path)
    edit(tmp_path / "tokenizer_config.json", padding_side=side)
    encoder = TextEncoder.load(tmp_path)
    alone = torch.cat([encoder.encode([text]) for text in TEXTS])
    assert (encoder.encode(TEXTS, batch_size=4) - alone).abs().max() < 1e-5


def test_a_tighter_limit_truncates_and_a_looser_one_does_not_extend() -> None:
    encoder = tiny_encoder(config=Settings(max_length=6))
    text = "the sky is blue a red ball"
    lengths = [encoder.tokenize([text], limit)["input_ids"].shape[1] for limit in (None, 4, 100)]
    assert lengths == [6, 4, 6]


def test_saving_changes_weights_and_nothing_else(tmp_path: Path) -> None:
    folder = save_family("bert", tmp_path / "model", prompts={"query": "query: "})
    (folder / "special.txt").write_text("kept\n")
    edit(folder / "tokenizer_config.json", tokenizer_class="BertTokenizerFast")
    head = {"cls.predictions.bias": torch.arange(5.0), **load_file(folder / "model.safetensors")}
    save_file(head, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = TextEncoder.load(folder)
    with torch.no_grad():
        encoder.weights()["embeddings.word_embeddings.weight"] += 1
    encoder.save(tmp_path / "saved")
    saved = tmp_path / "saved"
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special.txt"):
        assert (saved / name).read_bytes() == (folder / name).read_bytes()
    assert [module["type"] for module in read_json(saved / "modules.json")] == [
        f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Normalize")
    ]
    weights = load_file(saved / "model.safetensors")
    changed = [name for name, weight in weights.items() if not torch.equal(weight, head[name])]
    assert weights.keys() == head.keys()
    assert changed == ["embeddings.word_embeddings.weight"]


def test_a_model_is_not_saved_over_itself(tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder().folder, tmp_path / "model")
    with pytest.raises(UserError, match="is the folder that the model was loaded from; save it elsewhere"):
        TextEncoder.load(tmp_path / "model").save(tmp_path / "model")


def test_dtype_and_attention_can_be_told(tmp_path: Path) -> None:
    folder = save_family("gemma3", tmp_path / "model")
    encoder = TextEncoder.load(folder, dtype=torch.bfloat16, attn_implementation="eager")
    assert {weight.dtype for weight in encoder.parameters()} == {torch.bfloat16}
    assert encoder.backbone.config._attn_implementation == "eager"
    assert encoder.backbone.config.use_cache is False


def test_a_position_around_an_adapter_is_one_around_the_model_that_it_makes(tmp_path: Path) -> None:
    tiny_encoder().save(tmp_path / "base")
    adapter = write_adapter(tmp_path / "lora", factors(1), base_model_name_or_path=str(tmp_path / "base"))
    TextEncoder.load(adapter).save(tmp_path / "whole")
    experts = {"e": str(tiny_encoder(1).folder)}
    around = [load_task_vectors(TextEncoder.load(model), experts) for model in (adapter, tmp_path / "whole")]
    assert around[0].keys() == around[1].keys()
    assert all(torch.equal(vectors, around[1][name]) for name, vectors in around[0].items())
