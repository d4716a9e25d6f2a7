"""The options of the verb merge that learn the position on rows, and what they do."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lightning_app.unique_names import numbered
from lightning_app.verbs.verb_parser import Parser
from modules.errors import UserError

if TYPE_CHECKING:
    from datamodules import DataSource

SEARCHES = {"bfgs": "Bfgs", "adam": "Adam", "cma_es": "CmaEs"}
"""Name of a search on the command line to its class in `modules`."""

ONLY_LEARNED = ("columns", "search", "signed", "tasks")
NOT_LEARNED = ("coefficients", "scale")
"""Options that are for a merge with ``--learn`` only, and for one without it only."""

METHOD = "slerp"
"""The method where none is given."""


def add_learning_options(parser: Parser) -> None:
    """Add ``--learn`` and the options that go with it."""
    add = parser.add_argument_group("learning the position on rows of your own (Self Positioning)").add_argument
    add(
        "--learn",
        nargs="+",
        metavar="FILE",
        help="files of pairs (columns anchor, positive), graded pairs (sentence1, sentence2, score) or labelled texts "
        f"(text, label); without --method it is {METHOD}, without --base the base that all experts record",
    )
    add(
        "--columns",
        nargs="+",
        metavar="EXPECTED=COLUMN",
        help="columns of these files that are named otherwise, as anchor=frage positive=antwort",
    )
    add("--search", choices=list(SEARCHES), help="how the position is found (bfgs)")
    add(
        "--signed",
        action=argparse.BooleanOptionalAction,
        help="let an expert's coefficient become zero or negative",
    )
    add("--tasks", nargs="+", metavar="TASK", help="MTEB tasks to score base, experts, average and merge on")


def check_learning_options(options: argparse.Namespace) -> None:
    """Refuse options that would do nothing.

    Raises:
        UserError: one is given.
    """
    for key in NOT_LEARNED if options.learn else ONLY_LEARNED:
        if getattr(options, key) is not None:
            why = "that is what --learn finds; leave it out" if options.learn else "it is for a merge with --learn"
            raise UserError(f"--{key}: {why}")


def learn(options: argparse.Namespace, **settings: Any) -> None:
    """Learn the position on the rows of the files, and write the merge.

    Args:
        options: of the verb.
        settings: the method, and further arguments of `Plan`.

    Raises:
        UserError: a mistake of the user's.
    """
    import modules  # here, because a merge without rows waits neither for transformers nor for Lightning
    from lightning_app.learn_merge import learn_merge
    from lightning_app.verbs.quiet_libraries import quiet_libraries

    quiet_libraries()
    learn_merge(
        options.base,
        options.experts,
        learning_sources(options),
        options.out,
        search=getattr(modules, SEARCHES[options.search])() if options.search else None,
        signed=bool(options.signed),
        tasks=options.tasks or (),
        hub_name=options.push_to_hub,
        **settings,
    )


def learning_sources(options: argparse.Namespace) -> dict[str, DataSource]:
    """Return the files to learn on by name, each with its columns and the range that its scores turn out to have.

    Args:
        options: of the verb.

    Raises:
        UserError: a file cannot be read.
    """
    from datamodules import DataSource
    from lightning_app.first_recipe.given import read_columns, read_given

    columns = read_columns(options.columns or [], options.learn)
    names = numbered(DataSource(file).name for file in options.learn)
    sources = {
        name: read_given(name, file, columns[file]).source for name, file in zip(names, options.learn, strict=True)
    }
    for name, source in sources.items():
        if source.score_range:
            print("{}: scores are taken to lie in {:g} to {:g}".format(name, *source.score_range))
    return sources
