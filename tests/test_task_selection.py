"""Which MTEB tasks a selection means, and what is left of a capped one."""

from pathlib import Path

import pytest

from callbacks.mteb.mteb_encoder import MtebEncoder
from callbacks.mteb.task_loading import load_tasks
from callbacks.mteb.task_selection import TaskSelection, find_tasks
from modules.errors import UserError
from tests.tiny_encoder import Settings, tiny_encoder
from tests.tiny_mirror import (
    CORPUS,
    LABELLED,
    QUERIES,
    write_classification,
    write_clustering,
    write_reranking,
    write_sts,
    write_xquad,
)

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_benchmark_has_its_own_tasks_subsets_and_splits() -> None:
    import mteb

    shared = {task.metadata.name: list(task.hf_subsets) for task in mteb.get_benchmark("MTEB(eng, v2)").tasks}
    tasks = find_tasks(TaskSelection(benchmark="MTEB(eng, v2)"))
    assert {task.metadata.name: list(task.hf_subsets) for task in tasks} == shared and len(shared) == 41
    reranking = find_tasks(TaskSelection(["STS12"], ["Reranking", "STS"], "MTEB(eng, v2)"))
    names = [task.metadata.name for task in reranking]
    assert names[0] == "STS12" and names.count("STS12") == 1 and "MindSmallReranking" in names
    assert {task.metadata.type for task in reranking} == {"Reranking", "STS"}


def test_an_average_in_a_benchmark_counts_as_its_parts() -> None:
    names = [task.metadata.name for task in find_tasks(TaskSelection([], ["Retrieval"], "MTEB(eng, v1)"))]
    assert "CQADupstackAndroidRetrieval" in names and "CQADupstackRetrieval" not in names


def test_types_and_languages() -> None:
    tasks = find_tasks(TaskSelection(types=["STS"], languages=["pol"]))
    assert {task.metadata.type for task in tasks} == {"STS"}
    assert all("pol" in task.languages for task in tasks)
    [xquad] = find_tasks(TaskSelection(["XQuADRetrieval"], languages=["deu", "spa"]))
    assert sorted(xquad.hf_subsets) == ["de", "es"]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"types": ["Retreival"]}, "types: there is no type Retreival; did you mean Retrieval?"),
        ({"benchmark": "MTEB(eng,v2)"}, "there is no benchmark MTEB(eng,v2); did you mean MTEB(eng, v2)?"),
        ({"tasks": ["STSBenchmark"], "languages": ["deu"]}, "STSBenchmark has none of the languages deu"),
        ({"types": ["STS"], "benchmark": "MTEB(eng, v2)", "languages": ["kat"]}, "no task has these types and"),
        ({"tasks": ["STS12"], "max_corpus": 0}, "max_corpus is 0; it must be at least 1"),
    ],
)
def test_mistakes(selection: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        find_tasks(TaskSelection(**selection))
    assert message in str(caught.value)


def test_a_cap_keeps_every_document_that_its_queries_need(tmp_path: Path) -> None:
    write_xquad(tmp_path)
    [task] = load_tasks(TaskSelection(["XQuADRetrieval"], max_examples=2, max_corpus=3), str(tmp_path))
    data = task.dataset["en"]["validation"]
    assert task.metadata.name == "XQuADRetrieval-capped-2-corpus-3"
    assert len(data["queries"]) == len(data["relevant_docs"]) == 2 and len(data["corpus"]) == 3
    relevant = {document for documents in data["relevant_docs"].values() for document in documents}
    assert len(relevant) == 2 and relevant <= set(data["corpus"]["id"])
    [tight] = load_tasks(TaskSelection(["XQuADRetrieval"], max_corpus=2), str(tmp_path))
    data = tight.dataset["en"]["validation"]
    assert len(data["queries"]) == 2, "each of the three has one document, and there is room for two"
    relevant = {document for documents in data["relevant_docs"].values() for document in documents}
    assert relevant == set(data["corpus"]["id"])
    [whole] = load_tasks(TaskSelection(["XQuADRetrieval"], max_examples=9, max_corpus=9), str(tmp_path))
    assert whole.metadata.name == "XQuADRetrieval", "nothing was dropped"
    assert len(whole.dataset["en"]["validation"]["corpus"]) == len(CORPUS)


def test_a_cap_keeps_every_candidate(tmp_path: Path) -> None:
    write_reranking(tmp_path)
    [task] = load_tasks(TaskSelection(["AskUbuntuDupQuestions"], max_examples=2, max_corpus=1), str(tmp_path))
    data = task.dataset["default"]["test"]
    assert set(data["top_ranked"]) == set(data["queries"]["id"])
    assert {document for of in data["top_ranked"].values() for document in of} == set(data["corpus"]["id"])


def test_a_cap_keeps_the_same_examples_every_time(tmp_path: Path) -> None:
    import callbacks.mteb.task_loading

    for write in (write_sts, write_classification, write_clustering):
        write(tmp_path)
    names = ["STSBenchmark", "Banking77Classification", "TwentyNewsgroupsClustering"]
    sts, banking, clustering = load_tasks(TaskSelection(names, max_examples=5), str(tmp_path))
    assert len(sts.dataset["test"]) == len(banking.dataset["test"]) == 5
    assert len(banking.dataset["train"]) == 4 * len(LABELLED), "what a classifier is trained on stays whole"
    assert [len(row["sentences"]) for row in clustering.dataset["test"]] == [5, 5]
    first = sts.dataset["test"]["sentence1"][:]
    callbacks.mteb.task_loading._loaded.clear()
    [again] = load_tasks(TaskSelection(["STSBenchmark"], max_examples=5), str(tmp_path))
    assert again.dataset["test"]["sentence1"][:] == first


def test_a_capped_task_has_the_prompts_of_the_whole_one(tmp_path: Path) -> None:
    from mteb.types import PromptType

    write_xquad(tmp_path)
    [task] = load_tasks(TaskSelection(["XQuADRetrieval"], max_examples=len(QUERIES) - 1), str(tmp_path))
    own = Settings(prompts={"XQuADRetrieval-query": "own ", "document": "doc "})
    model = MtebEncoder(tiny_encoder(config=own), prompts={"Retrieval-document": "given "})
    assert model.prompt(task.metadata, PromptType.query) == "own "
    assert model.prompt(task.metadata, PromptType.document) == "given ", "a given prompt wins over the model's own"
    silent = MtebEncoder(tiny_encoder(config=own), prompts={"query": ""})
    assert silent.prompt(task.metadata, PromptType.query) == "", "however special that is"
