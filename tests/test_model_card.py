"""Model cards, read by huggingface_hub: what the hub shows, what a person reads, and that no path is told."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard

from lightning_app.verbs.merge import make_method, parse
from modules.checkpoints.identity import weights_identity
from modules.merging import Average, Dare, Lines, MergeMethod, Slerp, Ties
from modules.merging.describe import describe
from modules.model_card.card import write_card
from modules.model_card.finding import Evaluation, Finding
from modules.model_card.licence import stated_licence
from modules.model_card.usage import prompts_text
from modules.on_disk.merge_files import merge_files
from modules.on_disk.plan import Plan
from tests.model_cards import cells, read_card
from tests.tiny_encoder import tiny_encoder

SETTINGS: dict[str, Any] = {"max_length": 16, "prompts": {}, "default_prompt_name": None, "truncate_dim": None}


def record(**others: Any) -> dict[str, Any]:
    """What merge.json says of two experts of a base on the hub."""
    return {
        "base": {"path": "org/base", "sha256": "0" * 64},
        "experts": {"a": {"path": "org/a", "sha256": "1" * 64}, "b": {"path": "/home/me/b", "sha256": "2" * 64}},
        "method": describe(Slerp()),
        "a": {"a": 1.0, "b": 2.0},
        "scale": 0.5,
        "granularity": "model",
        "coefficients": {"model": {"a": 0.1, "b": 0.2}},
        "settings": SETTINGS,
    } | others


def write(folder: Path, content: dict[str, Any], **finding: Any) -> ModelCard:
    write_card(folder, "mine", content, Finding(**finding))
    return ModelCard.load(folder / "README.md")


def test_the_hub_finds_what_it_needs(tmp_path: Path) -> None:
    scores = [EvalResult("sentence-similarity", "mteb/sts", "STS (default)", "cosine_spearman", 0.7)]
    base = {"path": "org/base", "sha256": "0" * 64, "license": "apache-2.0"}
    sources = ["org/rows", "rows.jsonl", "/home/me/rows.csv", "python_docs", "org/rows"]
    card = write(tmp_path, record(base=base), sources=sources, evaluation=Evaluation(scores))
    data = card.data.to_dict()
    assert data["base_model"] == ["org/base", "org/a"] and data["base_model_relation"] == "merge"
    assert (data["library_name"], data["pipeline_tag"]) == ("sentence-transformers", "sentence-similarity")
    assert {"merge", "mteb", "sentence-similarity", "sentence-transformers"} <= set(data["tags"])
    assert (data["license"], data["datasets"]) == ("apache-2.0", ["org/rows"])
    assert card.data.eval_results == scores and data["model-index"][0]["name"] == "mine"
    assert "the base apache-2.0" in card.text and "/home/me" not in str(card)


def test_nothing_is_claimed_that_is_not_known(tmp_path: Path) -> None:
    parts = {name: {"path": f"/models/{name}", "sha256": "3" * 64} for name in "ab"}
    data = write(tmp_path, record(base=parts["a"], experts=parts)).data.to_dict()
    assert not {"base_model", "base_model_relation", "license", "datasets", "model-index"} & data.keys()
    assert not {"mteb", "peft"} & set(data["tags"])
    assert "states no licence" in (tmp_path / "README.md").read_text()


def test_a_trained_model_is_no_merge(tmp_path: Path) -> None:
    card = write(
        tmp_path, {"base": {"path": "org/base", "sha256": "0" * 64}, "trained_on": ["x"], "settings": SETTINGS}
    )
    assert card.data.get("base_model_relation") == "finetune" and "merge" not in card.data.tags
    assert "trained from `org/base`" in card.text and "## Merge" not in card.text


def test_scores_take_the_place_of_older_ones(tmp_path: Path) -> None:
    write(tmp_path, record(), evaluation=Evaluation([], {"Old.yaml": "[]"}))
    write(tmp_path, record(), evaluation=Evaluation([], {"New.yaml": "[]"}))
    assert [file.name for file in (tmp_path / ".eval_results").iterdir()] == ["New.yaml"]


def test_the_licence_is_what_the_card_states(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    assert stated_licence(tmp_path) == {}
    for text, stated in {
        "---\nlicense: other\nlicense_name: gemma\nlicense_link: https://x.org\n---\n": [
            "other",
            "gemma",
            "https://x.org",
        ],
        "---\nlicense: mit\n---\n# Title": ["mit"],
        "---\ntags: [a]\n---\n": [],
        "# No front matter\n": [],
        "---\nlicense: [unclosed\n---\n": [],
        "---\n- a list\n---\n": [],
    }.items():
        card.write_text(text)
        assert list(stated_licence(tmp_path).values()) == stated


def test_prompts_are_shown_as_they_are() -> None:
    prompts = {"query": "query: ", "sts": "Same?\n", "default": "text: "}
    text = prompts_text(SETTINGS | {"prompts": prompts, "default_prompt_name": "default"})
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert rows == [
        ["query", "`'query: '`", "`encode_query`"],
        ["sts", r"`'Same?\n'`", "`encode(..., prompt_name='sts')`"],
        ["default", "`'text: '`", "`encode`"],
    ]


@pytest.mark.parametrize(
    "method",
    [Slerp(), Slerp(order=["b", "a"]), Ties(density=0.3, per_tensor=True), Lines(Ties(density=0.3)), Dare(Average())],
    ids=lambda method: type(method).__name__,
)
def test_a_merge_on_disk_has_a_card_from_which_it_can_be_made_again(method: MergeMethod, tmp_path: Path) -> None:
    prompts = {"query": "query : ", "document": "text : "}
    for seed, name in enumerate(("base", "a", "b")):
        encoder = tiny_encoder(seed)
        encoder.take_settings({"prompts": prompts})
        encoder.save(tmp_path / name)
    (tmp_path / "base" / "README.md").write_text("---\nlicense: mit\n---\n")
    models = {name: str(tmp_path / name) for name in ("a", "b")}
    plan = Plan(str(tmp_path / "base"), models, method, a=[0.5, 2.0], scale=0.7, weights_by={"layer.0": [1.0, 0.0]})
    merge_files(plan, tmp_path / "out", lambda line: None)
    card = read_card(tmp_path / "out")
    assert card.data.license == "mit" and "encode_query" in card.text
    assert cells(card, "b")[0] == ["b", "`b`", f"`{weights_identity(tmp_path / 'b')}`"]
    [recipe] = re.findall(r"```yaml\n(.*?)```", card.text, re.DOTALL)
    (tmp_path / "merge.yaml").write_text(recipe)
    options = parse(["--config", str(tmp_path / "merge.yaml"), "--out", "x"])
    assert describe(make_method(options)) == describe(method)
    assert (options.coefficients, options.scale, options.base) == ([0.5, 2.0], 0.7, "base")
    assert options.weights_by == ["layer.0=1.0,0.0"] and yaml.safe_load(recipe)["experts"] == ["a", "b"]
