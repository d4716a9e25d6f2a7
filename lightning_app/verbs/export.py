"""``python -m lightning_app export``: a model as ONNX, for where there is no torch."""

import argparse
from pathlib import Path

from lightning_app.verbs.verb_parser import Parser
from modules.checkpoints.st_folder import POOLING_FLAGS
from modules.errors import UserError


def main(arguments: list[str]) -> None:
    """Run the verb.

    Raises:
        UserError: a mistake of the user's.
    """
    options = parse(arguments)
    from lightning_app.verbs.quiet_libraries import quiet_libraries  # here: help and mistakes wait for no library
    from modules.onnx_export.export_onnx import TEXTS, export_onnx

    quiet_libraries()
    texts = read_texts(options.texts) if options.texts else TEXTS
    export_onnx(options.model, options.out, texts=texts, int8=options.int8, pooling=options.pooling)


def make_parser() -> Parser:
    """Return the parser of the verb."""
    parser = Parser(
        prog="python -m lightning_app export",
        allow_abbrev=False,
        description="Write a model as ONNX, from token ids to sentence embeddings, checked against torch.",
    )
    add = parser.add_argument
    add("--onnx", action="store_true", help="the format; there is no other")
    add("--model", help="a folder (ours, sentence-transformers, transformers) or hub name")
    add("--out", metavar="DIR", help="the new folder")
    add("--int8", action="store_true", help="write a second graph with weights of 8 bits, too")
    add("--texts", metavar="FILE", help="texts to compare on, one a line (texts of several languages and lengths)")
    add("--pooling", choices=list(POOLING_FLAGS), help="of a plain transformers folder")
    return parser


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the verb's arguments.

    Raises:
        UserError: one is unknown, missing or wrong.
    """
    options = make_parser().parse_args(arguments)
    if not options.onnx:
        raise UserError("name the format: --onnx")
    for key in ("model", "out"):
        if not getattr(options, key):
            raise UserError(f"--{key} is missing; python -m lightning_app export --help")
    return options


def read_texts(file: str) -> list[str]:
    """Return the lines of a file, without the empty ones.

    Raises:
        UserError: there is no such file, or no text in it.
    """
    if not Path(file).is_file():
        raise UserError(f"--texts: there is no file {file}")
    from datamodules.sources.text_lines import read_lines

    texts = [text for text in read_lines(Path(file)) if text.strip()]
    if not texts:
        raise UserError(f"--texts: {file} has no texts")
    return texts
