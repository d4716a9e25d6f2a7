"""A mergekit configuration as the keys of a merge here, where both mean the same.

mergekit merges tensor by tensor. A number of its parameters may depend on the model and on filters: parts of tensors'
names, of which the first that fits counts, those of the model before those of the whole merge.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from modules.errors import UserError

DIFFERENT = {
    "slerp": "it turns whole weights, which are all but parallel; --method slerp turns task vectors",
    "karcher": "it averages directions of whole weights; --method karcher those of task vectors",
    "nuslerp": "it turns whole weights, or each tensor by itself; --method nu_slerp turns whole task vectors",
    "ties": "its election depends on the weights; --method ties elects by the plain sum, as the paper does",
    "dare_linear": "its random numbers are its own; use --method task_arithmetic --dare",
    "dare_ties": "its random numbers are its own, and it adds up what agrees; use --method ties --dare",
    "della": "its random numbers are its own; use --method della",
    "della_linear": "its random numbers are its own; use --method della",
}
"""Methods of mergekit that are not ours, and what is different."""

KEYS = {"merge_method", "models", "base_model", "dtype", "out_dtype", "parameters", "tokenizer_source"}

HARMLESS = {"int8_mask", "rescale"}
"""Parameters that save memory only, or that the methods here do not read."""

Conditions = list[tuple[str | None, float]]
"""Filter and number, in the order in which they are looked at; no filter: all tensors, and the end."""


def is_mergekit(content: Mapping[str, Any]) -> bool:
    """Return whether the content of a YAML file is a configuration of mergekit."""
    return "merge_method" in content


def from_mergekit(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return the keys of a merge here that mean the same.

    Args:
        content: of the YAML file.
        file: its path, for messages.

    Raises:
        UserError: the configuration has another meaning here, or is broken.
    """
    return _Configuration(content, file).keys()


class _Configuration:
    def __init__(self, content: Mapping[str, Any], file: Path) -> None:
        self.content, self.file = content, file
        self.method = str(content["merge_method"])
        self.parameters: Mapping[str, Any] = content.get("parameters") or {}

    def keys(self) -> dict[str, Any]:
        readers: dict[str, Callable[[], dict[str, Any]]] = {
            "linear": self._linear,
            "task_arithmetic": self._task_arithmetic,
            "multislerp": self._multi_slerp,
            "model_stock": self._model_stock,
            "sce": self._sce,
            "breadcrumbs": self._breadcrumbs,
        }
        if self.method not in readers:
            reason = DIFFERENT.get(self.method, f"read are {', '.join(readers)}")
            raise self._error(f"merge_method {self.method} of mergekit is not the same here: {reason}")
        unknown = sorted(self.content.keys() - KEYS)
        if unknown:
            raise self._error(f"the key {unknown[0]} of mergekit is not read; known are {', '.join(sorted(KEYS))}")
        if self.content.get("tokenizer_source") not in (None, "base"):
            raise self._error("tokenizer_source is not read: all models must share the base's vocabulary")
        self._read_models()
        found = readers[self.method]()
        self._refuse_other_parameters()
        dtype = self.content.get("out_dtype") or self.content.get("dtype")
        return {"base": self.base, "experts": list(self.experts), "dtype": dtype} | found

    def _error(self, text: str) -> UserError:
        return UserError(f"{self.file}: {text}")

    def _read_models(self) -> None:
        listed = self.content.get("models")
        if not isinstance(listed, list) or not all(
            isinstance(e, dict) and isinstance(e.get("model"), str) for e in listed
        ):
            raise self._error("models is no list with a model each; slices and modules are not read")
        self.models: dict[str, Mapping[str, Any]] = {entry["model"]: entry.get("parameters") or {} for entry in listed}
        if len(self.models) < len(listed):
            raise self._error("a model is listed twice; give it once, with the sum of its weights")
        base = self.content.get("base_model")
        if base is None and self.method != "linear":
            raise self._error(f"base_model is missing, which task vectors of {self.method} start from")
        self.base = str(base or listed[0]["model"])  # an average of whole models is one of their differences from any
        self.experts = {model: own for model, own in self.models.items() if model != self.base}
        if not self.experts:
            raise self._error("models lists none beside the base")
        self.read: set[str] = set(HARMLESS)

    def _refuse_other_parameters(self) -> None:
        for given in (self.parameters, *self.models.values()):
            others = sorted(given.keys() - self.read)
            if others:
                raise self._error(f"the parameter {others[0]} of {self.method} is not read; leave it out")

    def _linear(self) -> dict[str, Any]:
        if self._number("normalize", 1.0):
            return self._weights("task_arithmetic", self.models, normalised=True)
        for _, row in self._regions(self.models):
            if abs(sum(row) - 1) > 1e-9:
                raise self._error(
                    f"linear of weights that add up to {sum(row):g} shrinks the base, too; normalize them"
                )
        return self._weights("task_arithmetic", self.models, normalised=False)

    def _task_arithmetic(self) -> dict[str, Any]:
        normalised = bool(self._number("normalize", 0.0))
        return self._weights("task_arithmetic", self.experts, normalised) | self._scale()

    def _multi_slerp(self) -> dict[str, Any]:
        if not self._number("normalize_weights", 1.0):
            raise self._error("normalize_weights: false of multislerp is not read: weights are shares here")
        self.read.add("eps")
        return self._weights("multi_slerp", self.experts, normalised=False) | {"granularity": "tensor"}

    def _model_stock(self) -> dict[str, Any]:
        if self._number("filter_wise", 0.0):
            raise self._error("filter_wise of model_stock is not read: angles are of whole tensors")
        return {"method": "model_stock", "granularity": "tensor"}

    def _sce(self) -> dict[str, Any]:
        return {"method": "sce", "density": self._number("select_topk", 1.0)}

    def _breadcrumbs(self) -> dict[str, Any]:
        normalised = bool(self._number("normalize", 0.0))
        shares = {key: self._same(key, default) for key, default in (("density", 1.0), ("gamma", 0.01))}
        return self._weights("breadcrumbs", self.experts, normalised) | shares | self._scale()

    def _scale(self) -> dict[str, Any]:
        return {"scale": self._number("lambda", 1.0)}

    def _number(self, key: str, default: float) -> float:
        """Return a parameter of the whole merge."""
        self.read.add(key)
        value = self.parameters.get(key, default)
        if not isinstance(value, (bool, int, float)):
            raise self._error(f"{key} is {value!r}; one number for all tensors is read")
        return float(value)

    def _same(self, key: str, default: float) -> float:
        """Return a parameter that is the same for all models and tensors."""
        numbers = {number for model in self.experts for _, number in self._conditions(key, model, default)}
        if len(numbers) > 1:
            raise self._error(f"{key} differs between models or tensors; here it is one number")
        return numbers.pop()

    def _weights(self, method: str, models: Mapping[str, Any], normalised: bool) -> dict[str, Any]:
        """Return the method, the coefficients of the experts, and those for parts of the tensors."""
        found: dict[str, list[str]] = {}
        for expression, row in self._regions(models):
            total = sum(row) if normalised else 1.0
            if abs(total) < 1e-8:
                raise self._error("weights add up to 0 and cannot be normalised")
            shares = {model: weight / total for model, weight in zip(models, row, strict=True)}
            found.setdefault(expression, [f"{shares[model]:.20f}" for model in self.experts])
        rest = found.pop("")
        by = [f"{expression}={','.join(numbers)}" for expression, numbers in found.items()]
        return {"method": method, "coefficients": rest} | ({"weights_by": by} if by else {})

    def _regions(self, models: Mapping[str, Any]) -> Iterator[tuple[str, list[float]]]:
        """Yield expressions, in the order in which they are looked at, and the weight of each model; the last is empty.

        Models with different filters need all combinations of them: the first that fits has, for every model, its first
        filter that fits.
        """
        conditions = {model: self._conditions("weight", model, None) for model in models}
        filters = {model: tuple(text for text, _ in rows) for model, rows in conditions.items()}
        distinct = list(dict.fromkeys(filters.values()))
        for places in itertools.product(*(range(len(texts)) for texts in distinct)):
            place = dict(zip(distinct, places, strict=True))
            needed = dict.fromkeys(texts[at] for texts, at in place.items())
            row = [conditions[model][place[filters[model]]][1] for model in models]
            yield _expression([text for text in needed if text is not None]), row

    def _conditions(self, key: str, model: str, default: float | None) -> Conditions:
        """Return the filters and numbers of a model's parameter, up to the first without a filter."""
        self.read.add(key)
        found: Conditions = []
        for given in (self.models[model].get(key), self.parameters.get(key), default):
            for text, number in self._parsed(key, given):
                found.append((text, number))
                if text is None:
                    return found
        raise self._error(f"{model} has no {key} for tensors that no filter fits; add a value without a filter")

    def _parsed(self, key: str, given: Any) -> Conditions:
        rows = given if isinstance(given, list) else [] if given is None else [given]
        rows = [row if isinstance(row, dict) else {"value": row} for row in rows]
        if len(rows) > 1 and any("filter" not in row for row in rows[:-1]):
            raise self._error(f"{key} is {given!r}; gradients over layers are not read, give a number per filter")
        for row in rows:
            if isinstance(row.get("value"), bool) or not isinstance(row.get("value"), (int, float)):
                raise self._error(f"{key} is {given!r}; a number is read, or a list of filter and value")
        return [(None if row.get("filter") in (None, "*") else str(row["filter"]), float(row["value"])) for row in rows]


def _expression(texts: list[str]) -> str:
    """Return the regular expression that is found in names with all texts."""
    escaped = [re.escape(text) for text in texts]
    return "".join(escaped) if len(escaped) < 2 else "^" + "".join(f"(?=.*{text})" for text in escaped)
