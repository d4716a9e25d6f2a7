"""Encoders: what sentence-transformers computes, carried along or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense
from transformers import LlamaConfig, LlamaModel

from modules import TextEncoder, UserError
from modules.checkpoints.st_folder import EncoderConfig
from modules.encoding.pooling import pool
from tests.tiny_encoder import WORDS, tiny_encoder

TEXTS = ["a red cat", "the dog", "query : the sky is blue a red ball runs the dog sits", "ball"]


def tiny_decoder(config: EncoderConfig) -> TextEncoder:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(WORDS) + 4, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    return TextEncoder(LlamaModel(shape), tiny_encoder().tokenizer, config)


@pytest.mark.parametrize("make", [tiny_encoder, tiny_decoder])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_sentence_transformers_gives_the_same(tmp_path: Path, make: Any, normalize: bool, pooling: str) -> None:
    prompts = {"query": "query : "}
    config = EncoderConfig(pooling, normalize, 8, prompts, "query", "dot")
    encoder = make(config=config)
    encoder.save(tmp_path)
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    ours = TextEncoder.load(tmp_path)
    assert ours.config == config
    expected = torch.tensor(theirs.encode(TEXTS, prompt=""))
    assert (ours.encode(TEXTS, batch_size=2) - expected).abs().max() < 1e-5
    assert (encoder.encode(TEXTS) - expected).abs().max() < 1e-5
    assert theirs.max_seq_length == 8
    assert (theirs.prompts["query"], theirs.default_prompt_name) == ("query : ", "query")
    prompted = torch.tensor(theirs.encode(TEXTS, prompt_name="query"))
    assert (ours.encode(["query : " + text for text in TEXTS]) - prompted).abs().max() < 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
def test_pooling_on_either_side_of_the_padding(side: str) -> None:
    hidden = torch.arange(12.0).reshape(1, 4, 3)
    mask = torch.tensor([[0, 0, 1, 1] if side == "left" else [1, 1, 0, 0]])
    first, last = (hidden[0, 2], hidden[0, 3]) if side == "left" else (hidden[0, 0], hidden[0, 1])
    assert torch.equal(pool(hidden, mask, "cls")[0], first)
    assert torch.equal(pool(hidden, mask, "lasttoken")[0], last)
    assert torch.equal(pool(hidden, mask, "mean")[0], (first + last) / 2)


def edit(path: Path, **change: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling mean \\+ max_tokens is not supported"),
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt is false and the model has prompts"),
        ("config_sentence_transformers.json", {"truncate_dim": 8}, "truncate_dim is set"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case"),
    ],
)
def test_what_would_be_lost_is_refused(tmp_path: Path, file: str, change: dict[str, Any], message: str) -> None:
    tiny_encoder(config=EncoderConfig(max_length=8, prompts={"query": "query : "})).save(tmp_path)
    edit(tmp_path / file, **change)
    with pytest.raises(UserError, match=message):
        TextEncoder.load(tmp_path)


def test_another_pooling_than_the_model_says_is_refused(tmp_path: Path) -> None:
    tiny_encoder().save(tmp_path)
    with pytest.raises(UserError, match="pools by mean, not by cls"):
        TextEncoder.load(tmp_path, pooling="cls")


def test_a_plain_checkpoint_pools_as_told(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    encoder.backbone.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    loaded = TextEncoder.load(tmp_path, pooling="cls")
    assert (loaded.config.pooling, loaded.config.max_length) == ("cls", 64)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    state = encoder.backbone.state_dict()
    state.pop("encoder.layer.1.output.dense.weight")
    encoder.save(tmp_path, state)
    with pytest.raises(UserError, match="weights are missing: encoder.layer.1.output.dense.weight"):
        TextEncoder.load(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    encoder = tiny_encoder()
    with torch.no_grad():
        encoder.get_parameter("backbone.encoder.layer.0.output.dense.bias")[3] = value
    encoder.save(tmp_path)
    with pytest.raises(UserError, match=r"NaN or infinite weights in 1 tensors: .*layer\.0\.output\.dense\.bias"):
        TextEncoder.load(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    tiny_encoder().save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights as model.safetensors or shards; save") as error:
        TextEncoder.load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_dense_module_is_refused(tmp_path: Path) -> None:
    tiny_encoder().save(tmp_path / "plain")
    model = SentenceTransformer(str(tmp_path / "plain"), device="cpu")
    SentenceTransformer(modules=[*list(model)[:2], Dense(16, 4)], device="cpu").save(str(tmp_path / "dense"))
    with pytest.raises(UserError, match="modules Transformer > Pooling > Dense are not supported"):
        TextEncoder.load(tmp_path / "dense")


@pytest.mark.parametrize("mode", ["max", "weightedmean", "mean_sqrt_len_tokens"])
def test_a_pooling_we_do_not_have_is_refused(tmp_path: Path, mode: str) -> None:
    tiny_encoder().save(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}))
    with pytest.raises(UserError, match=f"pooling {mode} is not supported"):
        TextEncoder.load(tmp_path)
    with pytest.raises(UserError, match=f"pooling '{mode}' is unknown"):
        pool(torch.zeros(1, 2, 3), torch.ones(1, 2), mode)


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_what_sentence_transformers_writes_is_read(tmp_path: Path, pooling: str) -> None:
    config = EncoderConfig(pooling, True, 8, {"query": "query : "}, "query")
    tiny_encoder(config=config).save(tmp_path / "ours")
    theirs = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    theirs.save(str(tmp_path / "theirs"))
    loaded = TextEncoder.load(tmp_path / "theirs")
    assert loaded.config == config
    assert (loaded.encode(TEXTS) - torch.tensor(theirs.encode(TEXTS, prompt=""))).abs().max() < 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_padding_does_not_change_a_decoder_s_embedding(pooling: str, side: str) -> None:
    encoder = tiny_decoder(EncoderConfig(pooling, max_length=32))
    alone = torch.cat([encoder.encode([text]) for text in TEXTS])
    encoder.tokenizer.padding_side = side
    assert (encoder.encode(TEXTS, batch_size=4) - alone).abs().max() < 1e-5


def test_a_tighter_limit_truncates_and_a_looser_one_does_not_extend() -> None:
    encoder = tiny_encoder(config=EncoderConfig(max_length=6))
    text = "the sky is blue a red ball"
    lengths = [encoder.tokenize([text], limit)["input_ids"].shape[1] for limit in (None, 4, 100)]
    assert lengths == [6, 4, 6]
