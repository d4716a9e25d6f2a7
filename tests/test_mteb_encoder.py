"""MtebEncoder: what mteb gets to see of a model."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from callbacks.mteb.mteb_encoder import MtebEncoder
from callbacks.mteb.task_evaluation import evaluate_tasks
from callbacks.mteb.task_loading import load_tasks
from modules.encoding.text_encoder import TextEncoder
from tests.processes import in_two_processes
from tests.tiny_encoder import Settings, tiny_encoder
from tests.tiny_mirror import write_sts, write_xquad

TEXTS = ["a red cat", "the dog runs", "a red cat", "the sky is blue", "a cat", "the dog runs", "a"]


class Recorder(TextEncoder):
    """A TextEncoder that keeps what it was asked to encode."""

    def encode(self, texts: Any, prompt: str = "", **options: Any) -> Tensor:
        """Encode as ever."""
        self.seen = [*getattr(self, "seen", []), *texts]
        return super().encode(texts, prompt, **options)


def recorder(config: Settings | None = None) -> Recorder:
    tiny = tiny_encoder(config=config)
    return Recorder(tiny.pipeline, tiny.folder)


def task(name: str = "STSBenchmark") -> Any:
    import mteb

    return mteb.get_task(name).metadata


def encode(model: MtebEncoder, texts: list[str]) -> Tensor:
    batches = [{"text": texts[:3]}, {"text": texts[3:]}]
    return model.encode(batches, task_metadata=task())  # type: ignore[arg-type]


def test_order_is_kept_and_each_text_encoded_once() -> None:
    model = MtebEncoder(recorder())
    embeddings = encode(model, TEXTS)
    torch.testing.assert_close(embeddings, tiny_encoder().encode(TEXTS))
    encode(model, [*TEXTS, "a ball"])
    assert Counter(model.encoder.seen) == Counter({*TEXTS, "a ball"})  # type: ignore[attr-defined]


def test_a_prompt_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="callbacks.mteb.mteb_encoder")
    from mteb.types import PromptType

    model = MtebEncoder(recorder(), prompts={"STS": "the "})
    for _ in range(2):
        encode(model, TEXTS)
        model.encode([{"text": TEXTS}], task_metadata=task("XQuADRetrieval"), prompt_type=PromptType.query)  # type: ignore[typeddict-item]
    assert caplog.messages == ["STSBenchmark, all texts: prompt 'the '", "XQuADRetrieval, query: prompt ''"]
    encode(MtebEncoder(recorder()), TEXTS)
    assert caplog.messages[2:] == ["STSBenchmark, all texts: prompt ''"]


def test_mteb_takes_it_for_an_encoder_and_nothing_else() -> None:
    import mteb

    model = MtebEncoder(tiny_encoder(), "org/model", "abc")
    assert isinstance(model, mteb.EncoderProtocol)
    assert not isinstance(model, mteb.SearchProtocol | mteb.CrossEncoderProtocol)
    assert (model.mteb_model_meta.name, model.mteb_model_meta.revision) == ("org/model", "abc")


@pytest.mark.parametrize(
    ("names", "side", "expected"),
    [
        (["XQuADRetrieval-query", "XQuADRetrieval", "Retrieval-query", "query"], "query", "XQuADRetrieval-query"),
        (["XQuADRetrieval", "Retrieval-query", "query"], "query", "XQuADRetrieval"),
        (["Retrieval-query", "Retrieval", "query"], "query", "Retrieval-query"),
        (["Retrieval", "query"], "query", "Retrieval"),
        (["query", "default"], "query", "query"),
        (["query", "document", "passage", "default"], "document", "document"),
        (["query", "passage", "corpus", "default"], "document", ""),
        (["passage", "default"], "query", ""),
        (["query", "default"], None, "default"),
        (["query"], None, ""),
    ],
)
def test_prompt_is_the_most_special_one(names: list[str], side: str | None, expected: str) -> None:
    from mteb.types import PromptType

    prompts = {name: name for name in names}
    default = "default" if "default" in names else None
    model = MtebEncoder(tiny_encoder(config=Settings(prompts=prompts, default_prompt_name=default)))
    assert model.prompt(task("XQuADRetrieval"), PromptType(side) if side else None) == expected


@pytest.mark.parametrize(
    ("similarity", "prompts", "default"),
    [
        ("cosine", {"query": "query : ", "document": "document : ", "STS": "the "}, None),
        ("dot", {"query": "query : ", "passage": "document : ", "any": "the "}, "any"),
    ],
)
def test_same_scores_as_sentence_transformers(
    similarity: str, prompts: dict[str, str], default: str | None, tmp_path: Path
) -> None:
    """Prompts, titles, similarity: the saved model, loaded by sentence-transformers, gets the same from mteb."""
    import mteb
    from sentence_transformers import SentenceTransformer

    write_sts(tmp_path)
    write_xquad(tmp_path)
    config = Settings("mean", False, 32, prompts, default, similarity)
    encoder = tiny_encoder(config=config)
    encoder.save(tmp_path / "model")
    tasks = load_tasks(["STSBenchmark", "XQuADRetrieval"], str(tmp_path))
    theirs = mteb.evaluate(SentenceTransformer(str(tmp_path / "model"), device="cpu"), tasks, cache=None)
    ours = mteb.evaluate(MtebEncoder(encoder), tasks, cache=None)
    for our_task, their_task in zip(ours.task_results, theirs.task_results, strict=True):
        for split, scores in their_task.scores.items():
            for key, value in scores[0].items():
                if isinstance(value, float):
                    np.testing.assert_allclose(our_task.scores[split][0][key], value, atol=1e-5, err_msg=key)


def test_processes_share_the_texts_and_all_get_all(tmp_path: Path) -> None:
    write_sts(tmp_path)
    in_two_processes(_one_process, 2, str(tmp_path))
    expected = tiny_encoder().encode(TEXTS)
    parts = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for embeddings, single, _, _ in parts:
        torch.testing.assert_close(embeddings, expected)
        torch.testing.assert_close(single, tiny_encoder().encode(["a ball"]))
    assert Counter(parts[0][2] + parts[1][2]) == Counter([*set(TEXTS), "a", "a ball", "a ball"])
    scores = evaluate_tasks(MtebEncoder(tiny_encoder()), load_tasks(["STSBenchmark"], str(tmp_path)))
    assert parts[0][3] == parts[1][3] == pytest.approx(scores)


def _one_process(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    model = MtebEncoder(recorder())
    embeddings, single = encode(model, TEXTS), encode(model, ["a ball"])  # the second: fewer texts than processes
    seen = model.encoder.seen  # type: ignore[attr-defined]
    scores = evaluate_tasks(MtebEncoder(tiny_encoder()), load_tasks(["STSBenchmark"], folder))
    torch.save((embeddings, single, seen, scores), Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()
