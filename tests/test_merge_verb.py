"""``python -m lightning_app merge`` as a user meets it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_app.__main__ import main
from lightning_app.unique_names import unique_names
from lightning_app.verbs.learning_options import learning_sources
from lightning_app.verbs.merge import make_method, parse
from modules.errors import UserError
from modules.merging import Breadcrumbs, Dare, Della, Lines, MergeMethod, RegMean, Slerp, SphericalMean, Ties
from modules.merging.merge_method import METHODS
from tests.tiny_checkpoints import read_weights, save_models

HEAVY = ("transformers", "lightning", "mteb", "datasets")


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    base, experts = save_models(tmp_path)
    return ["--method", "slerp", "--base", base, "--experts", *experts.values(), "--out", str(tmp_path / "out")]


def test_the_verb_merges_without_heavy_libraries(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from lightning_app.__main__ import main\n"
        "status = main(['merge', *sys.argv[1:]])\n"
        f"print('loaded', [name for name in {HEAVY} if name in sys.modules])\n"
        "sys.exit(status)\n"
    )
    given = [*arguments, "--coefficients", "1", "2", "--max_shard_size", "10KB", "--dtype", "float16"]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "loaded []" in done.stdout
    assert f"wrote {tmp_path / 'out'}" in done.stdout
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert record["a"] == {"e0": 1.0, "e1": 2.0}
    assert record["method"]["class"] == "modules.merging.Slerp"
    assert record["dtype"] == "float16"
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert {weight.dtype for weight in read_weights(tmp_path / "out").values()} == {torch.float16}


def test_a_file_says_the_same_and_the_command_line_wins(arguments: list[str], tmp_path: Path) -> None:
    content = {
        "method": "ties",
        "base": str(tmp_path / "base"),
        "experts": [str(tmp_path / "e0"), str(tmp_path / "e1")],
        "coefficients": [1, -0.5],
        "density": 0.5,
        "per_tensor": True,
        "granularity": 2,
        "allow_suspicious": False,
        "settings_of": "e1",
        "scale": 0.5,
        "dtype": None,
        "out": str(tmp_path / "out"),
    }
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(content))
    options = parse(["--scale", "0.25", "--config", str(tmp_path / "merge.yaml"), "--no-per_tensor"])
    assert (options.scale, options.density, options.per_tensor, options.granularity) == (0.25, 0.5, False, 2)
    assert (options.coefficients, options.allow_suspicious, options.dtype) == ([1.0, -0.5], False, None)
    assert main(["merge", "--config", str(tmp_path / "merge.yaml")]) == 0
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert record["method"]["arguments"] == {"density": 0.5, "per_tensor": True}
    assert record["a"] == {"e0": 1.0, "e1": -0.5}
    assert record["scale"] == 0.5


def method_of(*given: str) -> MergeMethod:
    return make_method(parse(["--base", "b", "--experts", "x", "y", "--out", "o", *given]))


def test_methods_and_their_options() -> None:
    for name, kind in METHODS.items():
        assert type(method_of("--method", name)) is kind
    ties = method_of("--method", "ties", "--density", "0.4", "--per_tensor")
    assert isinstance(ties, Ties) and (ties.density, ties.per_tensor) == (0.4, True)
    slerp = method_of("--method", "slerp", "--order", "y", "x")
    assert isinstance(slerp, Slerp) and slerp.order == ["y", "x"]
    reg_mean = method_of("--method", "reg_mean", "--off_diagonal", "0.5")
    assert isinstance(reg_mean, RegMean) and reg_mean.off_diagonal == 0.5
    dare = method_of("--method", "ties", "--density", "0.4", "--dare", "0.3", "--seed", "7")
    assert isinstance(dare, Dare) and (dare.density, dare.seed) == (0.3, 7)
    assert isinstance(dare.method, Ties) and dare.method.density == 0.4


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_merges_from_the_command_line(
    name: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["merge", *arguments, "--method", name])
    if METHODS[name].statistics:
        assert status == 2 and "e0 has no" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
        return
    assert status == 0
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert record["method"]["class"] == f"modules.merging.{METHODS[name].__name__}"
    base, merged = read_weights(tmp_path / "base"), read_weights(tmp_path / "out")
    assert all(weight.isfinite().all() for weight in merged.values())
    assert any(not torch.equal(weight, base[key]) for key, weight in merged.items())


def test_a_method_over_another_and_their_options() -> None:
    lines = method_of("--method", "lines", "--inner", "ties", "--alpha", "0.2", "--density", "0.4")
    assert isinstance(lines, Lines) and (lines.alpha, lines.beta) == (0.2, 0.5)
    assert isinstance(lines.method, Ties) and lines.method.density == 0.4
    della = method_of("--method", "della", "--inner", "ties", "--density", "0.4", "--per_tensor", "--seed", "3")
    assert isinstance(della, Della) and (della.density, della.seed) == (0.4, 3)
    assert isinstance(della.method, Ties) and (della.method.density, della.method.per_tensor) == (0.2, True)
    dare = method_of("--method", "breadcrumbs", "--inner", "spherical_mean", "--gamma", "0.05", "--dare", "0.3")
    assert isinstance(dare, Dare) and (dare.density, dare.seed) == (0.3, 0)
    assert isinstance(dare.method, Breadcrumbs) and dare.method.gamma == 0.05
    assert isinstance(dare.method.method, SphericalMean)


REFUSED: dict[str, tuple[list[str], str]] = {
    "method": (["--method", "slrp"], "unknown method 'slrp'; did you mean slerp?"),
    "no method": (
        ["--method", "magic"],
        "unknown method 'magic'; use average, breadcrumbs, dare, della, fisher, karcher",
    ),
    "inner method": (["--method", "dare", "--inner", "tie"], "unknown method 'tie'; did you mean ties?"),
    "no wrapper": (["--inner", "ties"], "--inner is no option of slerp; it is one of breadcrumbs, dare, della, lines"),
    "weighting": (["--method", "size_weighted"], "'size_weighted' weighs by row counts: it is a merge of fit"),
    "option": (["--density", "0.2"], "--density is no option of slerp; it is one of breadcrumbs, dare, della"),
    "order": (["--method", "average", "--order", "a", "b"], "--order is no option of average; it is one of slerp"),
    "seed": (["--seed", "1"], "--seed is no option of slerp; it is one of dare, della"),
    "key": (["--densty", "0.2"], "unknown key '--densty'; did you mean 'density'?"),
    "abbreviation": (["--coef", "1", "1"], "unknown key '--coef'"),
    "dtype": (["--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
    "number": (["--coefficients", "1", "two"], "argument --coefficients: invalid float value: 'two'"),
    "count": (["--coefficients", "1"], "1 coefficients are given for 2 experts; give one each"),
    "rank": (["--adapter_rank", "0"], "adapter_rank is 0; it is at least 1"),
    "size": (["--max_shard_size", "big"], "max_shard_size is 'big'; write a size as 5GB or 300MB"),
    "granularity": (["--granularity", "row"], "granularity is 'row'; use model, layer, tensor or a number of groups"),
    "layers": (["--granularity", "9"], "granularity asks for 9 groups of layers; the model has 2 layers"),
    "expert": (["--experts", "x/y/z"], "model 'x/y/z' not found: no such directory, and it is not a hub name"),
    "settings": (["--settings_of", "e2"], "settings_of is 'e2'; it is base or one of e0, e1"),
    "config": (["--config", "nowhere.yaml"], "--config nowhere.yaml cannot be read: No such file or directory"),
    "missing": (["--out", ""], "--out is missing; python -m lightning_app merge --help"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_one_clear_line(case: str, arguments: list[str], tmp_path: Path, capsys: Any) -> None:
    extra, message = REFUSED[case]
    assert main(["merge", *arguments, *extra]) == 2
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not list(tmp_path.glob("*out*"))


def test_mistakes_in_a_file_are_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "merge.yaml"
    for text, message in (
        ("metod: slerp", "merge.yaml: unknown key 'metod'; did you mean 'method'?"),
        ("- slerp", "merge.yaml: not a mapping of keys to values"),
        ("a: [", "merge.yaml: not valid YAML"),
        ("scale: high", "argument --scale: invalid float value: 'high'"),
    ):
        file.write_text(text)
        with pytest.raises(UserError) as caught:
            parse(["--config", str(file)])
        assert message in str(caught.value)


def test_names_of_experts_are_unique() -> None:
    assert unique_names(["runs/a/model", "runs/b/model/", "org/other", "c/../other"]) == ["a", "b", "other", "other-2"]
    assert unique_names(["m", "m-2", "x/m"]) == ["m", "m-2", "m-3"]


def test_the_verb_is_known(capsys: Any) -> None:
    assert main(["merg"]) == 2
    assert "unknown verb 'merg'; did you mean merge?" in capsys.readouterr().err


def test_help_has_the_options_of_all_methods(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["merge", "--help"])
    said = capsys.readouterr().out
    assert "--coefficients" in said and "spherical_mean" in said and "--density" in said


def test_files_to_learn_on_have_their_columns_and_the_range_of_their_scores(tmp_path: Path, capsys: Any) -> None:
    graded, labelled = tmp_path / "similarity.csv", tmp_path / "tickets.csv"
    graded.write_text("sentence1,sentence2,score\n" + "".join(f"a {i},b {i},{i % 6}\n" for i in range(12)))
    labelled.write_text("body,queue\n" + "".join(f"a {i},{i % 2}\n" for i in range(12)))
    given = ["--experts", "a", "--out", "o", "--learn", str(graded), str(labelled)]
    found = learning_sources(parse([*given, "--columns", "text=body", "label=queue"]))
    assert [(name, source.score_range, source.columns) for name, source in found.items()] == [
        ("similarity", (0, 5), None),
        ("tickets", None, {"text": "body", "label": "queue"}),
    ]
    assert capsys.readouterr().out == "similarity: scores are taken to lie in 0 to 5\n"
    with pytest.raises(UserError, match="tickets.csv: found columns body, queue; .* --columns anchor=COLUMN"):
        learning_sources(parse(given))
    with pytest.raises(UserError, match="--columns: it is for a merge with --learn"):
        parse(["--method", "slerp", "--base", "x", "--experts", "a", "--out", "o", "--columns", "text=body"])
