"""Which prefix a text gets: by a model, by its data set, by its row; in training and by what is saved."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from lightning import Trainer
from sentence_transformers import SentenceTransformer
from tokenizers import processors

from datamodules import DataSource, TaskDataModule, load_task
from lightning_app.__main__ import main
from modules import ContrastiveModule, UserError
from modules.encoding.by_length import ROWS, embed_by_length
from modules.encoding.prompts import Side, describe_prompts, folder_prompts, prompts_by_side
from modules.encoding.prompts import trained_prompts as trained
from modules.losses.task_batch import Features, TaskBatch
from tests.conftest import Project, write_rows
from tests.tiny_checkpoints import edit_json
from tests.tiny_encoder import Settings, tiny_encoder

OWN = {"query": "query : ", "document": "document : ", "x": "the "}
PAIRS = [{"anchor": f"{a} cat", "positive": f"{a} dog sits", "negative": f"{a} ball"} for a in ("a", "the", "red")]
GRADED = [{"sentence1": f"{a} cat", "sentence2": f"{a} dog", "score": 0.5} for a in ("a", "the", "blue")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_encoder(config=Settings(max_length=32, prompts=OWN, default_prompt_name="x")).save(path)
    return path


def asked_for(model: SentenceTransformer) -> dict[str, str]:
    """What the three ways to encode put before a text."""
    seen: list[str] = []
    preprocess = model.preprocess

    def noted(inputs: Any, prompt: str | None = None, **options: Any) -> Any:
        seen.append(prompt or "")
        return preprocess(inputs, prompt=prompt, **options)

    model.preprocess = noted  # type: ignore[method-assign]
    for encode in (model.encode_query, model.encode_document, model.encode):
        encode(["a cat"])
    return dict(zip(get_args(Side), seen, strict=True))


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({}, None),
        (OWN, "x"),
        (OWN, "query"),
        ({"x": "the "}, "x"),
        ({"query": "query : ", "passage": "document : "}, None),
        ({"passage": "a ", "corpus": "b ", "x": "the "}, "passage"),
        ({"query": "", "document": "d : ", "x": "the "}, "x"),
    ],
)
def test_the_rule_is_that_of_sentence_transformers(folder: Path, prompts: dict[str, str], default: str | None) -> None:
    edit_json(folder / "config_sentence_transformers.json", prompts=prompts, default_prompt_name=default)
    theirs = asked_for(SentenceTransformer(str(folder), device="cpu"))
    assert prompts_by_side(prompts, default) == theirs
    assert prompts_by_side(*folder_prompts(folder)) == theirs, "read from the folder, which need not name empty ones"


@pytest.mark.parametrize(
    "data", [{}, {"a": {"query": "query : "}, "b": {"query": "query : ", "document": "document : "}}]
)
def test_training_with_a_models_own_prompts_changes_nothing(data: Any) -> None:
    assert trained(OWN, "x", data) == (OWN, "x", [])


def test_prompts_that_data_sets_agree_on_are_those_of_the_model() -> None:
    data: Any = {"a": {"query": "q ", "document": "d "}, "b": {"query": "q ", "document": "d "}, "c": {"text": "t "}}
    prompts, default, lines = trained(OWN, "x", data)
    assert prompts == {"query": "q ", "document": "d ", "x": "the ", "default": "t "}
    assert (prompts_by_side(prompts, default), lines) == ({"query": "q ", "document": "d ", "text": "t "}, [])
    assert trained(prompts, default, data) == (prompts, default, []), "a second time changes nothing"
    without = trained(OWN, "x", {"c": {"query": "", "text": ""}})
    assert prompts_by_side(*without[:2]) == {"query": "", "document": "document : ", "text": ""}


def test_prompts_that_data_sets_differ_in_are_called_after_them() -> None:
    data: Any = {"a": {"query": "q ", "document": "d "}, "b": {"query": "", "document": None}, "c": {"text": "t "}}
    prompts, default, lines = trained(OWN, "x", data | {"d": {"text": "u "}})
    assert prompts == OWN | {"a-query": "q ", "b-query": "", "document": "d ", "c": "t ", "d": "u "}
    assert default == "x" and [line.split(";")[1] for line in lines] == [
        " what they are trained with is saved as a-query, b-query: name one of these with prompt_name",
        " what they are trained with is saved as c, d: name one of these with prompt_name",
    ]


def test_prompts_in_words() -> None:
    assert describe_prompts({"query": "", "document": ""}) == "no prompt"
    assert describe_prompts({"query": "a\n", "document": None}) == r"query 'a\n', document that of its row"


@pytest.mark.parametrize("template", ["[CLS] $A [SEP]", "[CLS] $A", "$A"])
def test_lengths_of_prompts_are_those_of_sentence_transformers(template: str) -> None:
    encoder = tiny_encoder(config=Settings(max_length=6))
    encoder.pipeline.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformer: Any = encoder.pipeline[0]
    prompts = ["query :", "a", "the red cat sits : the blue", "a", "never seen"]
    found = [encoder.tokenizer.prompt_length(prompt, 6) for prompt in [*prompts, ""]]
    assert found == [*(transformer._get_prompt_length(prompt) for prompt in prompts), 0]


def test_a_batch_in_parts_keeps_each_row_with_the_length_of_its_prompt() -> None:
    texts = [" ".join(["cat"] * (1 + 7 * row % 20)) for row in range(3 * ROWS)]
    features = tiny_encoder().tokenize(texts) | {"prompt_lengths": torch.arange(len(texts))}

    def row_and_tokens(part: Features) -> torch.Tensor:
        return torch.stack([part["prompt_lengths"], part["attention_mask"].sum(1)], 1)

    assert torch.equal(embed_by_length(row_and_tokens, features), row_and_tokens(features))


def test_a_row_has_a_prompt_of_its_own(tmp_path: Path) -> None:
    rows = [row | {"instruction": f"{i} : ", "document_instruction": "doc : "} for i, row in enumerate(PAIRS)]
    write_rows(tmp_path / "pairs.jsonl", rows)
    task = load_task(DataSource(str(tmp_path / "pairs.jsonl"), prompts={"anchor": "never"}))
    read = task.with_prompts(prompts_by_side(OWN, "x"))
    assert [read.row_prompts(column, [2, 0]) for column in range(3)] == [["2 : ", "0 : "], *[["doc : "] * 2] * 2]
    assert read.subset([2, 1]).row_prompts(0, [0, 1]) == ["2 : ", "1 : "]
    assert read.side_prompts() == {"query": None, "document": "doc : "}
    assert not task.notes, "both columns are read"
    write_rows(tmp_path / "other.jsonl", [row | {"instruction": "0 : "} for row in rows])
    assert load_task(DataSource(str(tmp_path / "other.jsonl"))).fingerprint() != task.fingerprint()


def test_an_instruction_goes_before_both_sentences(tmp_path: Path) -> None:
    write_rows(tmp_path / "graded.jsonl", [row | {"instruction": f"{i} : "} for i, row in enumerate(GRADED)])
    task = load_task(DataSource(str(tmp_path / "graded.jsonl"))).with_prompts(prompts_by_side(OWN, "x"))
    assert [task.row_prompts(column, range(3)) for column in range(2)] == [["0 : ", "1 : ", "2 : "]] * 2
    assert task.side_prompts() == {"text": None}


def test_an_instruction_that_is_the_anchor_is_no_prompt(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.jsonl", [{"instruction": "a cat", "output": "a dog"}])
    task = load_task(DataSource(str(tmp_path / "x.jsonl"), columns={"anchor": "instruction", "positive": "output"}))
    assert (task.texts, task.instructions) == ([["a cat"], ["a dog"]], {})


@pytest.mark.parametrize("value", [None, 3])
def test_an_instruction_that_is_none(value: Any, tmp_path: Path) -> None:
    write_rows(tmp_path / "x.jsonl", [PAIRS[0] | {"instruction": ""}, PAIRS[1] | {"instruction": value}])
    with pytest.raises(
        UserError, match=rf"x.jsonl:2: instruction is {value}; every row needs a string there, empty for"
    ):
        load_task(DataSource(str(tmp_path / "x.jsonl")))


def test_graded_sentences_with_two_prompts_are_queries_and_documents(tmp_path: Path) -> None:
    write_rows(tmp_path / "graded.jsonl", GRADED)
    task = load_task(DataSource(str(tmp_path / "graded.jsonl"), prompts={"sentence1": "q "}))
    task = task.with_prompts(prompts_by_side(OWN, "x"))
    assert (task.prompts, task.side_prompts()) == (["q ", "the "], {"query": "q ", "document": "the "})


class Batches(ContrastiveModule):
    """Keeps what it is trained on."""

    seen: dict[str, TaskBatch]

    def training_step(self, batch: TaskBatch, batch_idx: int) -> torch.Tensor:
        self.seen[batch.task] = batch
        return super().training_step(batch, batch_idx)


def ids_of(model: SentenceTransformer, texts: list[str], prompt: str) -> torch.Tensor:
    ids: torch.Tensor = model.preprocess(texts, prompt=prompt)["input_ids"]
    return ids


def test_training_adds_what_the_saved_model_adds(folder: Path, tmp_path: Path) -> None:
    """Of a model with prompts, and where one data set has a prompt of its own; token by token."""
    edit_json(folder / "config_sentence_transformers.json", prompts=OWN, default_prompt_name="x")
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    write_rows(tmp_path / "graded.jsonl", GRADED)
    sources = [DataSource(str(tmp_path / f"{name}.jsonl")) for name in ("pairs", "graded")]
    for own, sides in (({}, asked_for(SentenceTransformer(str(folder)))), ({"anchor": "a : "}, {"query": "a : "})):
        module = Batches(str(folder))
        module.seen = {}
        sources[0] = DataSource(sources[0].source, prompts=own)
        data = TaskDataModule(sources, validation_size=0, batch_size=3)
        quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        Trainer(accelerator="cpu", max_steps=4, enable_model_summary=False, **quiet).fit(module, datamodule=data)
        module.save(tmp_path / "saved")
        saved = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
        found = asked_for(saved)
        assert found == prompts_by_side(OWN, "x") | sides
        order = [row - 1 for row in module.seen["pairs"].rows or []]
        columns = zip(module.seen["pairs"].features, ("anchor", "positive", "negative"), strict=True)
        for features, column in columns:
            prompt = found["query" if column == "anchor" else "document"]
            assert torch.equal(features["input_ids"], ids_of(saved, [PAIRS[row][column] for row in order], prompt))
        order = [row - 1 for row in module.seen["graded"].rows or []]
        first = [str(GRADED[row]["sentence1"]) for row in order]
        assert torch.equal(module.seen["graded"].features[0]["input_ids"], ids_of(saved, first, found["text"]))


def test_a_data_module_goes_by_the_module_that_it_serves(folder: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    data = TaskDataModule([DataSource(str(tmp_path / "pairs.jsonl"))], validation_size=1, batch_size=2)
    for prompts in ({"query": "query : "}, {"query": "the "}):
        edit_json(folder / "config_sentence_transformers.json", prompts=prompts, default_prompt_name=None)
        quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        Trainer(accelerator="cpu", limit_val_batches=0, **quiet).validate(ContrastiveModule(str(folder)), data)
        assert data.side_prompts == {"pairs": prompts | {"document": ""}}
        assert data.validation_identity["pairs"][1:] == [prompts["query"], "", "", 2, None]


def test_a_checkpoint_brings_its_prompts(folder: Path) -> None:
    module, other = ContrastiveModule(str(folder)), ContrastiveModule(str(folder))
    module.take_prompts({"a": {"query": "a : "}})
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(json.loads(json.dumps(checkpoint)))
    assert other.side_prompts == module.side_prompts != ContrastiveModule(str(folder)).side_prompts


def test_a_merge_has_the_prompts_of_its_experts(project: Project) -> None:
    """Of experts that were trained with them here; nothing has to be said of settings that differ by it."""
    recipe = project.content() | {"baselines": ["average"]}
    recipe["recipes"]["qa"]["data"][0]["prompts"] = {"anchor": "query : ", "positive": "document : "}
    project.recipe.write_text(yaml.safe_dump(recipe))
    assert main(["fit", "--config", str(project.recipe)]) == 0
    models = [project.stages()["merge-average"] / "model", project.run_dir / "model"]
    for model in models:
        assert folder_prompts(model) == ({"query": "query : ", "document": "document : "}, None)
    report = (project.run_dir / "report.md").read_text()
    assert "- qa: query 'query : ', document 'document : '\n- sts: no prompt\n" in report
