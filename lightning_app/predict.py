"""The verb predict: embeddings of the lines of a text file."""

from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_info
from safetensors.torch import save_file

from datamodules.text_lines import read_lines
from modules import TextEncoder, UserError
from modules.distributed import is_main_process
from modules.positioning.merged_encoder import MergedEncoder


def read_texts(file: str | None, out: str | None) -> list[str]:
    """The texts to embed.

    Args:
        file: with one text a line.
        out: where the embeddings go.

    Raises:
        UserError: one of the two is not given, or the file is not there, or has a line without a text.
    """
    if file is None or out is None:
        raise UserError("predict needs --texts FILE (one text a line) and --out FILE.safetensors")
    if not Path(file).is_file():
        raise UserError(f"--texts: there is no file {file}")
    texts = read_lines(Path(file))
    empty = [i for i, text in enumerate(texts, start=1) if not text.strip()]
    if empty or not texts:
        raise UserError(f"{file}:{empty[0] if empty else 1}: an empty line has no embedding; remove it")
    return texts


def predict(encoder: TextEncoder | MergedEncoder, texts: list[str], out: str) -> None:
    """Write ``embeddings`` ``[texts, dim]`` to a safetensors file, of texts after the model's default prompt.

    Args:
        encoder: the model.
        texts: without the prompt.
        out: the file.
    """
    prompt = default_prompt(encoder)
    if prompt:
        rank_zero_info(f"before every text: the model's default prompt, {prompt!r}")
    embeddings = encoder.encode([prompt + text for text in texts], progress=True)
    if is_main_process():
        save_file({"embeddings": embeddings}, out)
        print(f"{out}: embeddings {list(embeddings.shape)}")


def default_prompt(encoder: TextEncoder | MergedEncoder) -> str:
    """The text that a model puts before a text where no prompt is named; empty if there is none."""
    return encoder.prompts.get(encoder.default_prompt_name or "", "")
