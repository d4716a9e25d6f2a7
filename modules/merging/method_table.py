"""The table of all ways to merge: registered methods, and fixed weightings."""

from modules.merging.merge_method import METHODS, MergeMethod
from modules.merging.method_wrapper import MethodWrapper
from modules.merging.weightings import WEIGHTINGS

HEADER = ("method", "in a recipe", "merged task vector", "reference", "needs", "learned")

NEEDS = {"fisher": "Fisher information", "input_gram": "layer inputs"}
"""Kind of statistics of every expert's rows in words."""


def table_rows() -> list[list[str]]:
    """Return the cells under `HEADER`, one row per method, then one per fixed weighting.

    A method *needs* nothing beside its models, or a pass for the angles between task vectors, or statistics of the
    experts' data. *Learned* are its free numbers ``a``, and the scale where the method has one.
    """
    plain_first = sorted(METHODS, key=lambda name: (issubclass(METHODS[name], MethodWrapper), name))
    methods = [_row(name, METHODS[name]()) for name in plain_first]
    weightings = [[f"`{w.name}`", f"`weighting: {w.key}`", w.formula, w.reference, w.needs, "no"] for w in WEIGHTINGS]
    return methods + weightings


def _row(name: str, method: MergeMethod) -> list[str]:
    kind = type(method)
    needs = NEEDS[method.statistics] if method.statistics else "angles" if method.uses_angles else ""
    learned = ("a, scale" if method.has_scale else "a") if method.learned else "no"
    if isinstance(method, MethodWrapper):
        needs, learned = "another method", "as that"
    return [f"`{name}`", f"`modules.{kind.__name__}`", kind.formula, kind.reference, needs, learned]
