"""Two models compared in words: which of them is better, on what, and how sure that is."""

from collections.abc import Mapping

from lightning_app.report.significance import Difference, Significance


def comparison_text(a: str, b: str, found: Significance) -> str:
    """Return which of two models is better, on what, and how sure that is.

    Args:
        a: name of the first model.
        b: name of the second.
        found: the differences, the second minus the first.

    Example:
        B is better than A: +1.90 in the mean of 3 tasks (95 % interval +0.51 to +3.22). By type: clearly better on STS
        (+2.71), undecided on Retrieval (+1.08).
    """
    swapped = found.average.observed < 0
    better, other = (a, b) if swapped else (b, a)
    tasks = found.tasks
    over = f"on {next(iter(tasks))}" if len(tasks) == 1 else f"in the mean of {len(tasks)} tasks"
    verdict = _verdict(better, other, _turned(found.average, swapped), over)
    kind, parts = ("type", found.types) if len(found.types) > 1 else ("task", tasks)
    if len(parts) < 2:
        return verdict
    return f"{verdict} By {kind}: {better} is {_on_each({n: _turned(d, swapped) for n, d in parts.items()})}."


def _verdict(better: str, other: str, difference: Difference, over: str) -> str:
    gap = f"{difference.observed:+.2f}"
    if difference.interval is None:
        return f"{better} scores higher than {other}, {gap} {over}; without scores of examples there is no interval."
    sure = f"95 % interval {difference.interval:+.2f}"
    if difference.interval.low > 0:
        return f"{better} is better than {other}: {gap} {over} ({sure})."
    return f"{better} and {other} are level: {gap} for {better} {over} is within chance ({sure})."


def _on_each(parts: Mapping[str, Difference]) -> str:
    """Return what a model is better, worse or undecided on."""
    said: dict[str, list[str]] = {"clearly better on": [], "clearly worse on": [], "undecided on": []}
    for name, difference in parts.items():
        low, high = difference.interval or (0.0, 0.0)
        how = "clearly better on" if low > 0 else "clearly worse on" if high < 0 else "undecided on"
        said[how].append(f"{name} ({difference.observed:+.2f})")
    return ", ".join(f"{how} {', '.join(names)}" for how, names in said.items() if names)


def _turned(difference: Difference, swapped: bool) -> Difference:
    """Return a difference seen from the other model."""
    if not swapped:
        return difference
    bounds = difference.interval
    return Difference(-difference.observed, bounds and type(bounds)(-bounds.high, -bounds.low))
