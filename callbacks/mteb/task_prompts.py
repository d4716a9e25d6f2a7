"""Prompts (instructions) of MTEB tasks, under the names that sentence-transformers and mteb use.

A prompt is called like a task, ``SciFact``, or a type of tasks, ``Retrieval``; with ``-query`` or ``-document`` behind
it if it is for one side of a retrieval task only; or like a side alone, ``query`` or ``document``.

mteb is imported inside functions only: importing it takes seconds and reseeds every random number generator.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lightning.pytorch.utilities.seed import isolate_rng

from callbacks.mteb.task_cap import full_name
from modules.encoding.prompts import describe_prompts
from modules.errors import UserError, nearest
from modules.say_once import say_once

if TYPE_CHECKING:
    from mteb import AbsTask, TaskMetadata
    from mteb.types import PromptType

SIDES = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Side of a retrieval task to the names under which sentence-transformers looks for its prompt."""


def prompt_names(task: str, kind: str, side: str | None) -> list[str]:
    """Return the names of the prompts that fit some texts, the most special one first.

    Args:
        task: name of the task; a capped one has the prompts of the whole one.
        kind: type of the task.
        side: ``query`` or ``document`` of a retrieval task; None: any text of another.
    """
    task = full_name(task)
    return [task, kind] if side is None else [f"{task}-{side}", task, f"{kind}-{side}", kind, *SIDES[side]]


def check_prompts(prompts: Mapping[str, str]) -> None:
    """Raise a UserError if a prompt is called like nothing that mteb has."""
    if not prompts:
        return
    with isolate_rng():
        from callbacks.mteb.task_selection import known_names, known_types

        known = [*known_names(), *known_types()]
    known += [f"{name}-{side}" for name in known for side in SIDES]
    known += [name for names in SIDES.values() for name in names]
    for name in prompts.keys() - set(known):
        hint = nearest(name, known, "a name is that of a task or a type, with -query or -document behind it or not")
        raise UserError(f"prompts: {name} is no task and no type of tasks; {hint}")


def log_prompts(prompt: "Callable[[TaskMetadata, PromptType | None], str]", task: "AbsTask") -> None:
    """Say which prompts the texts of a task get; a process says the same thing once.

    Args:
        prompt: the prompt of a side of a task, `MtebEncoder.prompt`.
        task: whose texts.
    """
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.types import PromptType

    sides = (PromptType.query, PromptType.document) if isinstance(task, AbsTaskRetrieval) else (None,)
    found = {side.value if side else "prompt": prompt(task.metadata, side) for side in sides}
    say_once(f"  {task.metadata.name}: {describe_prompts(found)}")
