"""Exporting a model folder to ONNX, checked against torch before it is kept."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from modules.checkpoints.base_model import find_base_model, shown_name
from modules.checkpoints.identity import weights_identity
from modules.encoding.text_encoder import TextEncoder
from modules.errors import UserError
from modules.json_files import write_json
from modules.on_disk.new_folder import refuse_taken, written_aside
from modules.onnx_export.onnx_embeddings import Embeddings, cosines, embed, relative_error, write_tokenizer
from modules.onnx_export.quantize import quantize
from modules.onnx_export.sentence_graph import INPUTS, OUTPUT, refuse_other_pipelines, write_graph

NEEDED = ("onnx", "onnxscript", "onnxruntime")

GRAPH, GRAPH_INT8, ABOUT = "model.onnx", "model_int8.onnx", "model.json"

RELATIVE_ERROR = 1e-4
"""Largest relative difference of an embedding from torch's that is kept."""

COSINE = 0.98
"""Smallest cosine of an int8 embedding with torch's that is kept."""

TEXTS = [
    "cat",
    "A dog runs after the ball.",
    "How do I reset the PIN of my card?",
    "The mitochondrion is the powerhouse of the cell; it makes most of the cell's supply of ATP.",
    "ALL CAPITALS, AND A NUMBER: 3,141.59!",
    "def add(a, b):\n    return a + b",
    "https://example.org/path?query=1&page=2",
    "Zürich liegt am See, und der Fluss heißt Limmat.",
    "Le prix de l'essence a augmenté de 3 % en octobre.",
    "今天天气很好, 我们去公园散步吧。",
    "Москва - столица России.",
    "query: which river flows through Paris",
    "passage: The Seine flows through Paris to the English Channel.",
    "I was happy with the service, but the food was cold and came late.",
    "?!...",
    "The stock fell 7% after the company cut its outlook for the second time this year. " * 3,
    "It was the best of times, it was the worst of times, it was the age of wisdom. " * 12,
    "one two three four five six seven eight nine ten " * 120,
]
"""Texts that exports are checked on: of several languages and kinds, from one word to more than a model keeps."""


def export_onnx(
    model: str,
    out: str | Path,
    *,
    texts: Sequence[str] = TEXTS,
    int8: bool = False,
    pooling: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Write a model as ONNX, from token ids to sentence embeddings, into a new folder.

    The folder gets the graph, a ``tokenizer.json`` that cuts and pads, and ``model.json``, which has prompts and
    differences from torch. It takes its name last, so that a folder of that name is complete and checked.

    Args:
        model: a folder, or a hub name.
        out: the new folder.
        texts: that the embeddings are compared on.
        int8: write a second graph with weights of 8 bits, by onnxruntime's dynamic quantization.
        pooling: of a plain transformers folder.
        say: prints a line.

    Raises:
        UserError: `out` is taken, a package is missing, the model has no export, or its embeddings differ too much from
            torch's; nothing is written then.
    """
    out = refuse_taken(out)
    _refuse_missing_packages()
    encoder = TextEncoder.load(model, pooling=pooling)
    refuse_other_pipelines(encoder)
    expected: Embeddings = encoder.encode(list(texts)).numpy()
    with written_aside(out) as folder:
        write_graph(encoder, folder / GRAPH)
        write_tokenizer(encoder, folder)
        about = {"relative_error": _check(folder, texts, expected, say)}
        if int8:
            about |= _quantized(folder, texts, expected, say)
        _write_about(folder / ABOUT, model, encoder, about)
        sizes = [f"{file.name} ({file.stat().st_size / 1e6:.1f} MB)" for file in sorted(folder.iterdir())]
    say(f"wrote {out}: {', '.join(sizes)}")


def _refuse_missing_packages() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} not installed: pip install 'embedding-self-positioning[onnx]'")


def _check(folder: Path, texts: Sequence[str], expected: Embeddings, say: Callable[[str], None]) -> float:
    """Return the largest relative difference from torch, and say it.

    Raises:
        UserError: it is above the limit.
    """
    error = relative_error(embed(folder, GRAPH, texts), expected)
    said = f"{len(texts)} texts: largest relative difference from torch {error:.1e} (limit {RELATIVE_ERROR:.0e})"
    if not error <= RELATIVE_ERROR:
        raise UserError(f"{said}; nothing is written")
    say(said)
    return error


def _quantized(
    folder: Path, texts: Sequence[str], expected: Embeddings, say: Callable[[str], None]
) -> dict[str, float]:
    """Write the graph with weights of 8 bits; return its cosines with torch, and say them.

    Raises:
        UserError: one of them is below the limit.
    """
    quantize(folder / GRAPH, folder / GRAPH_INT8)
    found = cosines(embed(folder, GRAPH_INT8, texts), expected)
    lowest, mean = float(found.min()), float(found.mean())
    said = f"int8: cosine with torch {lowest:.4f} at least, {mean:.4f} in the mean (limit {COSINE})"
    if not lowest > COSINE:
        worst = texts[int(found.argmin())][:40]
        raise UserError(f"{said}, lowest for {worst!r}; nothing is written, leave --int8 out")
    say(said)
    return {"int8_cosine_lowest": lowest, "int8_cosine_mean": mean}


def _write_about(file: Path, model: str, encoder: TextEncoder, measured: dict[str, float]) -> None:
    about = {
        "model": shown_name(model),
        "sha256": weights_identity(find_base_model(model)),
        "inputs": list(INPUTS),
        "output": OUTPUT,
        **encoder.settings(),
        **measured,
    }
    write_json(file, about)
