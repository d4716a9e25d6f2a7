"""The verdict of a run: which of its models to take, what that gains, and how sure it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_app.report.section import Section
from lightning_app.report.significance import Difference, Significance
from lightning_app.stages.fixed_merge import FixedMerge
from lightning_app.stages.learn import Learn
from lightning_app.stages.model import Model
from lightning_app.stages.stage_graph import StageGraph
from modules.checkpoints.base_model import find_base_model

SPELLED_OUT = 6
"""The most names that a sentence lists."""


@dataclass(frozen=True)
class Contender:
    """A model that a verdict may choose.

    Args:
        name: of its row.
        folder: where it lies.
        objective: mean loss on the probe-validation rows relative to the base's; None: not known.
        single: whether it is no merge.
        trust_remote_code: whether code that comes with it may be run.
    """

    name: str
    folder: str
    objective: float | None = None
    single: bool = False
    trust_remote_code: bool = False


def contender(name: str, model: Model, graph: StageGraph, objective: float | None) -> Contender:
    """Return a model, whose stage has run, as a verdict sees it.

    Args:
        name: of its row.
        model: the model.
        graph: knows where it lies.
        objective: see `Contender`.
    """
    return Contender(
        name,
        str(find_base_model(model.folder(graph))),  # what a wheel or the cache has is loaded from there
        objective,
        single=not isinstance(model.stage, Learn | FixedMerge),
        trust_remote_code=model.loading.trust_remote_code,
    )


def choose(contenders: Sequence[Contender], otherwise: Contender) -> Contender:
    """Return the model with the lowest loss on the probe-validation rows, of two equals the first.

    Args:
        contenders: simple ones first.
        otherwise: the choice where no loss is known.
    """
    known = [model for model in contenders if model.objective is not None]
    return min(known, key=lambda model: model.objective or 0.0) if known else otherwise


@dataclass(frozen=True)
class Verdict:
    """The model to take.

    Args:
        chosen: the model; no test score had a part in the choice.
        contenders: all that it was chosen among.
        gains: name of every other scored row to the differences, the chosen model minus it.
        shown: those whose difference is written out: the base, joint models, the average.
        tasks: number of tasks that models were scored on.
        remark: what else is to be said of where models lie.
    """

    chosen: Contender
    contenders: Sequence[Contender]
    gains: Mapping[str, Significance]
    shown: Sequence[str]
    tasks: int
    remark: str = ""

    def section(self) -> Section:
        """Return the verdict, where the model lies and how to load it."""
        lies = f"It lies in {self.chosen.folder}{self.remark}."
        return Section("Verdict", text=[f"{self.choice()} {self.comparison()}", lies], code=self.loading())

    def choice(self) -> str:
        """Return the model to take, and why, in a sentence."""
        name, objective = self.chosen.name, self.chosen.objective
        names = [model.name for model in self.contenders if model.objective is not None]
        if objective is None:
            return f"Take {name}, which the recipe makes: there is no loss on probe-validation rows to choose by."
        if len(names) == 1:
            return f"Take {name}: no other model has a loss on the probe-validation rows."
        among = _listed(names) if len(names) <= SPELLED_OUT else f"{len(names)} models"
        against = "" if objective == 1 else f", {100 * abs(1 - objective):.1f} % {_side(objective)} the base's"
        return f"Take {name}: of {among} it has the lowest loss on the probe-validation rows{against}."

    def comparison(self) -> str:
        """Return what the model gains over the other rows, and which single model is as good, in a sentence."""
        if not self.tasks:
            return "It was scored on no task: this is said of the probe-validation rows alone, on which it was chosen."
        if not self.gains:
            return "There are no scores of it and of another model to compare, so what it gains is not known."
        groups: dict[str, list[str]] = {}
        for name, found in self.gains.items():
            groups.setdefault(_standing(found.average), []).append(name)
        parts = [f"{standing} {self._with_numbers(groups[standing])}" for standing in STANDINGS if standing in groups]
        parts += self._alone(groups.get(WORSE, []), "better") + self._alone(groups.get(LEVEL, []), "as good")
        mean = "On the only task" if self.tasks == 1 else f"On the mean of the {self.tasks} tasks"
        return f"{mean} (differences with 95 % intervals) {'; '.join(parts)}."

    def loading(self) -> str:
        """Return the lines of Python that load the model."""
        code = ", trust_remote_code=True" if self.chosen.trust_remote_code else ""
        load = f'model = SentenceTransformer("{self.chosen.folder}"{code})'
        return f"from sentence_transformers import SentenceTransformer\n{load}"

    def _with_numbers(self, names: Sequence[str]) -> str:
        first = [name for name in self.shown if name in names]
        others = [name for name in names if name not in first]
        if len(names) > SPELLED_OUT and len(others) > 1:
            others = [f"{len(others)} other rows"]
        return _listed([f"{name} ({_numbers(self.gains[name].average)})" for name in first] + others)

    def _alone(self, names: Sequence[str], how: str) -> list[str]:
        """The single models among others, which need no merge, as a part of the sentence."""
        single = [model.name for model in self.contenders if model.single and model.name in names]
        if self.chosen.single or not single:
            return []
        return [f"{_listed(single)} alone {'is' if len(single) == 1 else 'are'} {how}"]


BETTER, WORSE = "it is better than", "it is worse than"
LEVEL = "there is no difference that the tasks can see from"
ABOVE, BELOW = "without an interval, it lies above", "without an interval, it lies below"
STANDINGS = (BETTER, WORSE, LEVEL, ABOVE, BELOW)
"""In words, how a model stands to another; in the order of the sentence."""


def _standing(difference: Difference) -> str:
    if difference.interval is None:
        return ABOVE if difference.observed > 0 else BELOW
    low, high = difference.interval
    return BETTER if low > 0 else WORSE if high < 0 else LEVEL


def _numbers(difference: Difference) -> str:
    bounds = difference.interval
    return f"{difference.observed:+.2f}" + (f", {bounds:+.2f}" if bounds else "")


def _side(objective: float) -> str:
    return "below" if objective < 1 else "above"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
