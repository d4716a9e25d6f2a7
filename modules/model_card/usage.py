"""The lines of Python that load a model and embed texts with it."""

from collections.abc import Mapping
from typing import Any

from modules.markdown import markdown_table

PLAIN = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer({name}{options})
embeddings = model.encode(["A text.", "Another text."])"""

ASYMMETRIC = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer({name}{options})
queries, documents = model.encode_query(["A question?"]), model.encode_document(["A text.", "Another text."])"""

ADAPTER = """from peft import PeftModel
from transformers import AutoModel

model = PeftModel.from_pretrained(AutoModel.from_pretrained("{base}"), "{name}")"""


def usage(name: str, settings: Mapping[str, Any], own_code: bool) -> str:
    """Return the lines for a sentence-transformers model: with `encode_query` where it has a prompt for one side.

    Args:
        name: the hub name of the model, or its folder.
        settings: its settings of texts, see `modules.checkpoints.text_settings`.
        own_code: whether it comes with code, which transformers runs only if told.
    """
    sides = {"query", "document"} & settings["prompts"].keys()
    template = ASYMMETRIC if sides else PLAIN
    return template.format(name=f'"{name}"', options=", trust_remote_code=True" if own_code else "")


def adapter_usage(name: str, base: str) -> str:
    """Return the lines for a LoRA adapter.

    Args:
        name: the hub name of the adapter, or its folder.
        base: that of the model that it adapts.
    """
    return ADAPTER.format(name=name, base=base)


def prompts_text(settings: Mapping[str, Any]) -> str:
    """Return what a model puts before texts, in Markdown; empty where it has no prompts."""
    prompts: Mapping[str, str] = settings["prompts"]
    if not prompts:
        return ""
    default = settings["default_prompt_name"]
    uses = {"query": "`encode_query`", "document": "`encode_document`", default: "`encode`"}
    rows = [
        [name, f"`{prompt!r}`", uses.get(name, f"`encode(..., prompt_name={name!r})`")]
        for name, prompt in prompts.items()
    ]
    return markdown_table(["prompt", "put before a text", "by"], rows, numbers=False)
