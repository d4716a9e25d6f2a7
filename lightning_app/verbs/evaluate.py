"""``python -m lightning_app evaluate``: MTEB scores of any saved model, or of two to compare."""

import argparse
from pathlib import Path

import yaml

from lightning_app.verbs.verb_parser import Parser
from modules.checkpoints.st_folder import POOLING_FLAGS
from modules.encoding.precisions import PRECISIONS
from modules.errors import UserError


def main(arguments: list[str]) -> None:
    """Run the verb.

    Raises:
        UserError: a mistake of the user's.
    """
    options = parse(arguments)
    from lightning_app.evaluate_models import evaluate_models  # here: help and mistakes wait for no library
    from lightning_app.verbs.quiet_libraries import quiet_libraries

    quiet_libraries()
    options.prompts = read_prompts(options.prompts)
    print(f"\n{evaluate_models(options)}")
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
