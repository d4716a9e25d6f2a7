"""The verb predict: embeddings of the lines of a text file."""

from collections.abc import Mapping
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from safetensors.torch import save_file

from datamodules.sources.text_lines import read_lines
from lightning_app.verbs.out_file import check_out_file
from lightning_app.verbs.recipe_run import RecipeRun
from modules import TextEncoder, UserError
from modules.distributed import is_main_process
from modules.encoding.prompts import named_prompts, prompts_by_side
from modules.positioning.merged_encoder import MergedEncoder


def run(config: Namespace) -> None:
    """Embed the lines of a text file.

    Raises:
        UserError: a mistake of the user's, or the model is not made yet.
    """
    texts = read_texts(config.texts, config.out)
    predict(RecipeRun(config).encoder(), texts, config.out, config.prompt, config.prompt_name)


def read_texts(file: str | None, out: str | None) -> list[str]:
    """Return the texts to embed.

    Args:
        file: with one text a line.
        out: where the embeddings go.

    Raises:
        UserError: one of the two is not given, `out` cannot be written, or the file is not there or has a line without
            a text.
    """
    if file is None or out is None:
        raise UserError("predict needs --texts FILE (one text a line) and --out FILE.safetensors")
    check_out_file(out)
    if not Path(file).is_file():
        raise UserError(f"--texts: there is no file {file}")
    texts = read_lines(Path(file))
    empty = [i for i, text in enumerate(texts, start=1) if not text.strip()]
    if empty or not texts:
        raise UserError(f"{file}:{empty[0] if empty else 1}: an empty line has no embedding; remove it")
    return texts


def predict(
    encoder: TextEncoder | MergedEncoder,
    texts: list[str],
    out: str,
    prompt: str | None = None,
    prompt_name: str | None = None,
) -> None:
    """Write ``embeddings`` ``[texts, dim]`` to a safetensors file.

    Args:
        encoder: the model.
        texts: without a prompt.
        out: the file.
        prompt: what goes before every text; None: that of `prompt_name`.
        prompt_name: name of a prompt of the model; None: its default prompt, if it has one.

    Raises:
        UserError: both are given, or the model has no prompt of this name.
    """
    prompt = _prompt(encoder.prompts, encoder.default_prompt_name, prompt, prompt_name)
    if prompt:
        rank_zero_info(f"before every text: {prompt!r}")
    embeddings = encoder.encode(texts, prompt, bar="encoding")
    if is_main_process():
        save_file({"embeddings": embeddings}, out)
        print(f"{out}: embeddings {list(embeddings.shape)}")


def _prompt(prompts: Mapping[str, str], default_name: str | None, prompt: str | None, name: str | None) -> str:
    """Return the prompt of every text."""
    if prompt is not None and name is not None:
        raise UserError("--prompt and --prompt_name are both given; one of them says what goes before every text")
    if name is None:
        return prompts_by_side(prompts, default_name)["text"] if prompt is None else prompt
    named = named_prompts(prompts)
    if name not in named:
        raise UserError(f"--prompt_name: the model has no prompt '{name}'; it has {', '.join(named)}")
    return named[name]
