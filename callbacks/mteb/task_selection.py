"""Selections of MTEB tasks: by name, by type, as a benchmark, in which languages, and how much of each.

mteb is imported inside functions only: importing it takes seconds and reseeds every random number generator.
"""

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modules.errors import UserError, nearest

if TYPE_CHECKING:
    from mteb import AbsTask


@dataclass(frozen=True)
class TaskSelection:
    """Selects MTEB tasks: those of ``tasks``, and those of ``types`` and ``benchmark``.

    Args:
        tasks: names of tasks, or ``PythonDocsSTS``, ``PythonDocsRetrieval`` and ``PythonDocsClassification``, which
            need no download.
        types: types of tasks, ``[STS, Retrieval]``: all of the benchmark, or without one all that mteb has.
        benchmark: name of a benchmark, ``MTEB(eng, v2)``. A task that averages others counts as those.
        languages: ISO 639-3 codes, ``[eng, deu-Latn]``: other subsets of multilingual tasks are left out; empty: all.
        max_examples: keep at most so many queries of a retrieval task, and examples of any other; None: all.
        max_corpus: keep at most so many documents of a retrieval task, and the queries that they answer; None: all.

    Raises:
        UserError: a cap leaves nothing.

    Example:
        >>> tasks = load_tasks(TaskSelection(types=["STS"], benchmark="MTEB(eng, v2)", max_examples=200))
    """

    tasks: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    benchmark: str | None = None
    languages: list[str] = field(default_factory=list)
    max_examples: int | None = None
    max_corpus: int | None = None

    def __post_init__(self) -> None:
        """Refuse caps that leave nothing."""
        for key in ("max_examples", "max_corpus"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"{key} is {value}; it must be at least 1")

    def __bool__(self) -> bool:
        """Return whether any task is wanted."""
        return bool(self.tasks or self.types or self.benchmark)


def find_tasks(selection: TaskSelection) -> "list[AbsTask]":
    """Return the tasks of a selection, new and without data, each once.

    A task that is named is scored on the split ``test`` if mteb scores it on that, else on its first split; one of a
    benchmark or a type on the splits that those say.

    Raises:
        UserError: a name, type, benchmark or language is unknown, or a task is not about text.
    """
    found = [_by_name(name, selection.languages) for name in selection.tasks]
    if selection.benchmark:
        found += _of_benchmark(selection.benchmark, selection.types, selection.languages)
    elif selection.types:
        found += _of_types(selection.types, selection.languages)
    if selection and not found:
        raise UserError("tasks: no task has these types and languages")
    by_name: dict[str, AbsTask] = {}
    for task in found:
        by_name.setdefault(task.metadata.name, task)
    return list(by_name.values())


def known_names() -> "dict[str, type[AbsTask]]":
    """Return the classes of all tasks by name: those of this package and mteb's."""
    from mteb.get_tasks import TASK_LIST

    from callbacks.mteb.python_docs_tasks import PythonDocsClassification, PythonDocsRetrieval, PythonDocsSTS

    kinds: list[type[AbsTask]] = [PythonDocsSTS, PythonDocsRetrieval, PythonDocsClassification, *TASK_LIST]
    return {kind.metadata.name: kind for kind in kinds}


def known_types() -> list[str]:
    """Return the types of tasks about text, sorted."""
    from mteb.get_tasks import TASK_LIST

    return sorted({str(task.metadata.type) for task in TASK_LIST if task.metadata.modalities == ["text"]})


def _by_name(name: str, languages: list[str]) -> "AbsTask":
    from mteb.abstasks.aggregated_task import AbsTaskAggregate

    known = known_names()
    if name not in known:
        hint = nearest(name, known, "see mteb.get_tasks() for the names")
        raise UserError(f"tasks: there is no MTEB task {name}; {hint}")
    task = known[name]()
    if isinstance(task, AbsTaskAggregate):
        parts = ", ".join(part.metadata.name for part in task.tasks)
        raise UserError(f"tasks: {name} only averages other tasks; name these instead: {parts}")
    if task.modalities != ["text"]:
        raise UserError(f"tasks: {name} needs {', '.join(task.modalities)}; only text can be embedded here")
    splits = task.metadata.eval_splits
    task = task.filter_eval_splits(["test" if "test" in splits else splits[0]])
    if not _keep_languages(task, languages):
        raise UserError(f"tasks: {name} has none of the languages {', '.join(languages)}")
    return task


def _of_benchmark(name: str, types: list[str], languages: list[str]) -> "list[AbsTask]":
    import mteb

    try:
        tasks = mteb.get_benchmark(name).tasks
    except KeyError:
        known = [benchmark.name for benchmark in mteb.get_benchmarks()]
        hint = nearest(name, known, "see mteb.get_benchmarks() for the names")
        raise UserError(f"benchmark: there is no benchmark {name}; {hint}") from None
    _check_types(types)
    parts = [task for task in _without_averages(tasks) if task.modalities == ["text"]]
    wanted = [copy(task) for task in parts if not types or task.metadata.type in types]
    return [task for task in wanted if _keep_languages(task, languages)]


def _without_averages(tasks: "Iterable[AbsTask]") -> "list[AbsTask]":
    from mteb.abstasks.aggregated_task import AbsTaskAggregate

    parts = [_without_averages(task.tasks) if isinstance(task, AbsTaskAggregate) else [task] for task in tasks]
    return [task for part in parts for task in part]


def _of_types(types: list[str], languages: list[str]) -> "list[AbsTask]":
    import mteb

    _check_types(types)
    options = {
        "task_types": types,
        "modalities": ["text"],
        "exclusive_modality_filter": True,
        "exclude_aggregate": True,
    }
    try:
        return list(mteb.get_tasks(**options, languages=languages or None))  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"languages: {str(error).splitlines()[0]}") from error


def _check_types(types: list[str]) -> None:
    known = known_types()
    for name in types:
        if name not in known:
            raise UserError(f"types: there is no type {name}; " + nearest(name, known, f"use {', '.join(known)}"))


def _keep_languages(task: "AbsTask", languages: list[str]) -> bool:
    """Restrict a task to the subsets in some languages; False if there are none."""
    if not languages:
        return True
    try:
        task.filter_languages(languages, hf_subsets=task.hf_subsets)
    except ValueError as error:
        if "No subsets" in str(error):
            return False
        raise UserError(f"languages: {str(error).splitlines()[0]}") from error
    return True
