"""The knowledge that a run has of a model beside its weights, for the model's records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on MTEB tasks.

    Args:
        results: for the ``model-index`` of a card.
        files: name of a file in ``.eval_results`` to its content.
    """

    results: Sequence["EvalResult"] = ()
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """The making of a model, for its records.

    Args:
        record: the entry ``learned`` of ``merge.json``; empty: the position was given.
        sections: heading to text of sections of the model card, in Markdown; none may hold a path.
        sources: of rows; those that are hub names are named in the front matter of the card.
        evaluation: its scores on MTEB tasks.
        hub_name: the name that it is to have on the hub; None: it is not sent there.
    """

    record: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)
    sources: Sequence[str] = ()
    evaluation: Evaluation = field(default_factory=Evaluation)
    hub_name: str | None = None
