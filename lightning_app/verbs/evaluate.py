"""``python -m lightning_app evaluate``: MTEB scores of any saved model, or of two to compare.

A corpus of any size is embedded in chunks: beside the model, memory holds at most the embeddings of 50,000 documents
twice, their similarities to all queries, and up to 128 MB for texts that come again (docs/benchmarks.md).
"""

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

from callbacks import TaskSelection, load_tasks
from callbacks.mteb.example_scores import ExampleScores
from callbacks.mteb.task_evaluation import MEAN, MEAN_OF_TYPES, leaderboard_means
from callbacks.mteb.task_prompts import check_prompts
from callbacks.mteb.task_texts import overlaps
from datamodules import DataSource, load_task
from lightning_app.report.comparison import comparison_text
from lightning_app.report.rows_table import OVERLAP_LEGEND, shared_texts_table
from lightning_app.report.significance import Difference, Row, Significance, significance
from lightning_app.stages.model_loading import ModelLoading, is_plain
from lightning_app.stages.scorer import score_tasks
from lightning_app.unique_names import short_name
from lightning_app.verbs.quiet_libraries import quiet_libraries
from lightning_app.verbs.verb_parser import Parser
from modules import UserError
from modules.checkpoints.base_model import find_base_model, is_hub_name
from modules.checkpoints.st_folder import POOLING_FLAGS
from modules.encoding.encode import PRECISIONS
from modules.encoding.tokenized_texts import TokenizedTexts
from modules.markdown import markdown_table

if TYPE_CHECKING:
    from mteb import AbsTask

INTERVAL_LEGEND = "The intervals are 95 % bootstrap intervals of the difference, over the choice of the test examples."


@dataclass(frozen=True)
class Scores:
    """Scores of one model.

    Args:
        scores: task to main score x 100.
        seconds: task to the time its evaluation took, in this run or in the one that its result is taken from.
        examples: task to the model's example scores.
    """

    scores: dict[str, float]
    seconds: dict[str, float]
    examples: dict[str, ExampleScores]


def main(arguments: list[str]) -> None:
    """Run the verb.

    Raises:
        UserError: a mistake of the user's.
    """
    options = parse(arguments)
    quiet_libraries()
    device = _device(options.device)
    models = options.compare or [options.model]
    for model in models:
        find_base_model(model)  # what is wrong here shows before any data is read
    training = [load_task(DataSource(file)) for file in options.training_data]
    prompts = read_prompts(options.prompts)
    check_prompts(prompts)
    selection = TaskSelection(**{field.name: getattr(options, field.name) for field in fields(TaskSelection)})
    tasks = load_tasks(selection, options.data_root)
    tokenized = TokenizedTexts()
    # Of two models one may say its own pooling, the other none; a pooling that no model waits for is a mistake.
    base = None if any(map(is_plain, models)) else models[0]
    loading = ModelLoading(options.pooling, options.trust_remote_code, base, options.attn_implementation)
    found = [evaluate_model(model, tasks, device, prompts, tokenized, loading, options) for model in models]
    print(f"\n{_compared(tasks, models, found) if options.compare else result_tables(tasks, found[0])}")
    if training:
        print(f"\n{OVERLAP_LEGEND}\n\n{shared_texts_table(overlaps(tasks, training)).markdown()}")
    print(f"\nmteb's results: {Path(options.out) / 'results'}")


def make_parser() -> Parser:
    """Return the parser of the verb."""
    parser = Parser(
        prog="python -m lightning_app evaluate",
        allow_abbrev=False,
        description="Score a saved model on MTEB tasks, or two models, to say which is better and how sure that is.",
    )
    add = parser.add_argument
    add("--model", help="a folder (ours, sentence-transformers, transformers) or hub name")
    add("--compare", nargs=2, metavar=("A", "B"), help="two such models instead; differences are B minus A")
    add("--tasks", nargs="+", default=[], help="names of MTEB tasks")
    add("--types", nargs="+", default=[], help="types of tasks: all of the benchmark, or without one all of mteb")
    add("--benchmark", help='name of a benchmark, "MTEB(eng, v2)"')
    add("--languages", nargs="+", default=[], help="ISO 639-3 codes of the languages to keep (all)")
    add("--max_examples", type=int, metavar="N", help="keep at most so many examples (or queries) of a task (all)")
    add(
        "--max_corpus",
        type=int,
        metavar="N",
        help="keep at most so many documents, and the queries that they answer (all)",
    )
    add("--pooling", choices=list(POOLING_FLAGS), help="of a plain transformers folder")
    add("--trust_remote_code", action="store_true", help="let transformers run code that comes with a model")
    add("--attn_implementation", metavar="NAME", help="of transformers: sdpa, eager, flash_attention_2")
    add("--prompts", metavar="YAML", help="a file or text: a prompt by task, type or side; wins over the model's own")
    add("--data_root", metavar="DIR", help="folder with copies of hub data sets, DIR/org/name (MTEB_DATA_ROOT)")
    add("--training_data", nargs="+", default=[], metavar="FILE", help="count what the tasks share with these rows")
    add("--batch_size", type=int, default=64, help="texts a forward pass (64)")
    add("--precision", choices=PRECISIONS, default="float32", help="what the model computes in (float32)")
    add("--device", help="cpu, cuda, cuda:1 (a GPU if there is one)")
    add("--out", metavar="DIR", help="mteb's JSON results are written here; what is there is not computed again")
    return parser


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the verb's arguments.

    Raises:
        UserError: one is unknown, missing or wrong.
    """
    options = make_parser().parse_args(arguments)
    if bool(options.model) == bool(options.compare):
        raise UserError("give either --model MODEL or --compare A B")
    if not (options.tasks or options.types or options.benchmark):
        raise UserError("name the tasks: --tasks, --types or --benchmark")
    if not options.out:
        raise UserError("--out is missing: the folder of the results")
    if (out := Path(options.out)).exists() and not out.is_dir():
        raise UserError(f"--out {out}: that is a file; name a folder")
    if options.batch_size < 1:
        raise UserError(f"--batch_size is {options.batch_size}; it must be at least 1")
    return options


def read_prompts(given: str | None) -> dict[str, str]:
    """Return the prompts in a YAML file or text.

    Raises:
        UserError: it is not a mapping of names to texts.
    """
    if given is None:
        return {}
    try:
        text = Path(given).read_text(encoding="utf-8") if Path(given).is_file() else given
        prompts = yaml.safe_load(text)
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"--prompts: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise UserError(f"--prompts {given}: neither a file nor a mapping of names to prompts")
    return prompts


def evaluate_model(
    model: str,
    tasks: "list[AbsTask]",
    device: torch.device,
    prompts: Mapping[str, str],
    tokenized: TokenizedTexts,
    loading: ModelLoading,
    options: argparse.Namespace,
) -> Scores:
    """Score one model, task by task; tasks whose results lie in ``--out`` are taken from there."""
    name, found = model_name(model), Scores({}, {}, {})
    scored = score_tasks(
        loading.load(model).to(device),
        model,
        tasks,
        Path(options.out),
        lambda _: name,
        prompts=prompts,
        precision=options.precision,
        tokenized=tokenized,
        batch_size=options.batch_size,
    )
    for task in scored:
        found.scores[task.task], found.seconds[task.task] = task.score, task.seconds
        found.examples[task.task] = task.examples
        print(f"{name}: {task.task} {task.score:.2f}", flush=True)
    return found


def model_name(model: str) -> str:
    """Return the name of a model in result files: its hub name, or ``local/<folder>``."""
    if is_hub_name(model):
        return model
    return f"local/{short_name(model)}"


def _compared(tasks: "list[AbsTask]", models: list[str], found: list[Scores]) -> str:
    """Return the tables of a comparison, what the columns are, and which model is better."""
    a, b = found
    sure = significance(tasks, Row(a.scores, a.examples), Row(b.scores, b.examples))
    legend = f"A: {models[0]}\nB: {models[1]}\n{INTERVAL_LEGEND}"
    if sure.constant:
        legend += f" Constants in them, because they have no scores of examples: {', '.join(sure.constant)}."
    return f"{comparison_tables(tasks, a, b, sure)}\n\n{legend}\n\n{comparison_text('A', 'B', sure)}"


def result_tables(tasks: "list[AbsTask]", found: Scores) -> str:
    """Return a table of tasks by main score and time, and one of the leaderboard's means."""
    rows = [
        [name, str(task.metadata.type), task.metadata.main_score, f"{found.scores[name]:.2f}", f"{seconds:.1f}"]
        for task, (name, seconds) in zip(tasks, found.seconds.items(), strict=True)
    ]
    counts = _task_counts(tasks)
    means = [[name, counts[name], f"{mean:.2f}"] for name, mean in leaderboard_means(tasks, found.scores).items()]
    return _joined(["task", "type", "metric", "score", "seconds"], rows, ["mean", "of", "score"], means)


def comparison_tables(tasks: "list[AbsTask]", a: Scores, b: Scores, found: Significance) -> str:
    """Return a table of tasks by the scores of two models and their difference, and one of the leaderboard's means.

    Args:
        tasks: that both models were scored on.
        a: scores of the first model.
        b: scores of the second.
        found: the differences.
    """
    rows = [
        [name, str(task.metadata.type), *_cells(a.scores[name], b.scores[name], found.tasks[name])]
        for name, task in {task.metadata.name: task for task in tasks}.items()
    ]
    counts, means_b = _task_counts(tasks), leaderboard_means(tasks, b.scores)
    means = [
        [name, counts[name], *_cells(float(mean), float(means_b[name]), found.means[name])]
        for name, mean in leaderboard_means(tasks, a.scores).items()
    ]
    columns = ["A", "B", "B - A", "95 % interval"]
    return _joined(["task", "type", *columns], rows, ["mean", "of", *columns], means)


def _joined(header: list[str], rows: list[list[str]], of_means: list[str], means: list[list[str]]) -> str:
    """Return a table of tasks, and under it one of their means; a single task is its own mean."""
    tables = [markdown_table(header, rows)] + [markdown_table(of_means, means)] * (len(rows) > 1)
    return "\n\n".join(tables)


def _task_counts(tasks: "list[AbsTask]") -> dict[str, str]:
    """Return what each of the leaderboard's means is taken over."""
    types = Counter(str(task.metadata.type) for task in tasks)
    counts = {name: _counted(count, "task") for name, count in types.items()}
    return {MEAN: _counted(len(tasks), "task"), MEAN_OF_TYPES: _counted(len(types), "type"), **counts}


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count > 1)}"


def _cells(a: float, b: float, difference: Difference) -> list[str]:
    bounds = difference.interval
    return [f"{a:.2f}", f"{b:.2f}", f"{b - a:+.2f}", f"{bounds:+.2f}" if bounds else ""]


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device
