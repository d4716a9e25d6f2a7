"""Merging models on disk: from safetensors to safetensors, tensor by tensor, without building a model.

Memory is a few tensors whatever the size of the models: N task vectors, the base's tensor and the merged one.

Shapes: N experts.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.checkpoint_io import TensorInfo
from modules.checkpoints.checkpoint_layout import layout_writer, refuse_keys
from modules.checkpoints.identity import weights_identity
from modules.checkpoints.lineage import lineage_through, read_lineage, write_lineage
from modules.checkpoints.lora import AdapterWriter, is_adapter
from modules.checkpoints.model_settings import copy_settings
from modules.checkpoints.task_vector_files import PART, Loaded, is_changed, open_models
from modules.compatibility.agree import agree
from modules.compatibility.safety import refuse_other_ancestors, refuse_suspicious
from modules.errors import UserError
from modules.gram import sum_by_group
from modules.json_files import read_json
from modules.merging.combine import combine
from modules.merging.describe import describe
from modules.merging.merge_method import MergeMethod, Preparation, Statistics
from modules.model_card.finding import Finding
from modules.model_card.licence import stated_licence
from modules.model_card.merge_recipe import AS_IN_THE_BASE
from modules.on_disk.kept_grams import Grams, kept_grams, measure
from modules.on_disk.new_folder import refuse_taken, written_aside
from modules.on_disk.plan import Group, Plan
from modules.on_disk.record import write_records
from modules.on_disk.rounding import NEGLIGIBLE, Rounding, is_narrow
from modules.on_disk.suspicion import Suspicion


def merge_files(
    plan: Plan, out: str | Path, say: Callable[[str], None] = print, finding: Finding | None = None
) -> dict[str, Any]:
    """Merge models on disk into a new folder.

    The folder is written aside and takes its name last, so that a folder of that name is complete.

    Args:
        plan: the models, the method and its settings.
        out: the new folder.
        say: prints a line.
        finding: what the records say of how a position was learned, and the model's name on the hub.

    Returns:
        The content of ``merge.json``.

    Raises:
        UserError: `out` is taken, a model is missing or broken, models do not go together or are suspicious, or a
            method lacks statistics.
    """
    out = refuse_taken(out)
    plan.refuse_mistakes()
    with written_aside(out) as folder:
        merge = _Merge(plan, say)
        record = merge.write(folder, out.absolute().name, finding)
        merge.files.close()
    say(f"wrote {out}")
    return record


class _Merge:
    """A merge: opened, checked, written."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan, self.say = plan, say
        self.base = find_base_model(plan.base)
        self.folders = {name: _find_expert(model) for name, model in plan.experts.items()}
        self.files = open_models(self.base, self.folders, say)
        self.pipeline = agree(self.base, self.folders, plan.settings_of, say)
        self.dtype = plan.dtype
        self._say_unmatched(plan.groups(self.files.names))  # a mistake in them shows before the long part
        self.prepares = type(plan.method).preparation is not MergeMethod.preparation
        self.spare = torch.empty(PART)
        self.grams = Grams()
        self.suspicion: Suspicion | None = None
        self.groups: dict[str, str] = {}
        self.coefficients: dict[str, Tensor] = {}

    def write(self, folder: Path, name: str, finding: Finding | None = None) -> dict[str, Any]:
        """Merge into an empty folder, and return the record; checks that need all tensors come last.

        Args:
            folder: that is written.
            name: that it gets at the end.
            finding: see `merge_files`.
        """
        method = self.plan.method
        prepare = method.preparation(self.files.stream, self._statistics()) if self.prepares else None
        if method.uses_angles:
            self.grams = self._measured(prepare)
            self._refuse_suspicious()
        self._set_coefficients(self.grams.prepared)
        if not (method.uses_angles or self.plan.allow_suspicious):
            self.suspicion = Suspicion(len(self.folders))
        adapter = self._write_adapter(folder, prepare) if self.plan.adapter_rank else self._write_model(folder, prepare)
        if self.suspicion and not self.suspicion.is_clear():
            self.grams = measure(self.files, None)
            self._refuse_suspicious()
        weights = weights_identity(self.base)  # after all was read, so that nothing is read for it alone
        if not self.plan.allow_suspicious:
            known = {name: read_lineage(expert, self.say) for name, expert in self.folders.items()}
            refuse_other_ancestors(weights, known)
        write_lineage(folder, lineage_through(self.base, weights, self.say), self.plan.base)
        return write_records(folder, name, self._record(weights) | adapter, finding)

    def _statistics(self) -> Statistics | None:
        kind = self.plan.method.statistics
        if kind is None:
            return None
        from modules.merging.statistics import read_statistics  # here, because most methods need none

        return read_statistics(kind, [str(folder) for folder in self.folders.values()])

    def _measured(self, prepare: Preparation | None) -> Grams:
        return kept_grams(
            [self.base, *self.folders.values()],
            describe(self.plan.method) if prepare else None,
            lambda: measure(self.files, prepare),
            self.say,
        )

    def _say_unmatched(self, groups: Mapping[str, Group]) -> None:
        used = {group.expression for group in groups.values()}
        unmatched = [expression for expression in self.plan.weights_by if expression not in used]
        if unmatched:
            self.say(f"no tensor takes its coefficients from these expressions of weights_by: {' '.join(unmatched)}")

    def _set_coefficients(self, grams: Mapping[str, Tensor]) -> None:
        """Set the coefficients of each group; without angles they depend on the free numbers only."""
        tensors = self.plan.groups(grams or self.files.names)
        groups = list(dict.fromkeys(tensors.values()))
        self.groups = {name: group.label for name, group in tensors.items()}
        labels, experts = [group.label for group in groups], len(self.folders)
        zeros = torch.zeros(len(labels), experts, experts, dtype=torch.float64)
        sums = sum_by_group(grams, self.groups, labels) if grams else zeros
        # All groups in one call, as a position takes them, which gives the same bits.
        self.coefficients = dict(zip(labels, self.plan.coefficients(sums, groups), strict=True))

    def _refuse_suspicious(self) -> None:
        if self.plan.allow_suspicious:
            return
        experts = len(self.folders)
        total = sum(self.grams.raw.values(), torch.zeros(experts, experts, dtype=torch.float64))
        refuse_suspicious(total, self.grams.base_square**0.5, list(self.folders))

    def _merge_all(self, label: str, prepare: Preparation | None) -> Iterator[tuple[Loaded, Tensor]]:
        """Yield every tensor, or part, and what it is merged to: the base's where no expert changed it."""
        for loaded in self.files.each(label, parts=prepare is None):
            name, base, vectors, _ = loaded
            changed = self._is_changed(name, base, vectors)
            yield loaded, self._combine(name, base, vectors, prepare) if changed else base

    def _is_changed(self, name: str, base: Tensor, vectors: Tensor) -> bool:
        """Return whether an expert changed a tensor, which counts for the suspicion."""
        if self.plan.method.uses_angles:
            return name in self.grams.raw
        if self.suspicion:
            self.suspicion.add(base, vectors)
        return is_changed(vectors)

    def _combine(self, name: str, start: Tensor, vectors: Tensor, prepare: Preparation | None) -> Tensor:
        """Return `start` plus the merged task vector, valid until the next."""
        c = self.coefficients[self.groups[name]]
        if prepare:
            prepared = prepare(name, vectors)
            return combine(start, prepared.vectors, c, prepared.importance)
        fits = start.numel() <= len(self.spare)  # new memory from the system takes longer than the sums
        return combine(start, vectors, c, out=self.spare[: start.numel()].view(start.shape) if fits else None)

    def _write_model(self, folder: Path, prepare: Preparation | None) -> dict[str, Any]:
        layout, others = self.files.base, self.files.others()
        rounding = self._choose_dtype(prepare)
        # What --dtype loses is measured while it is written.
        insisted = rounding if self.plan.dtype and is_narrow(self.plan.dtype) else None
        dtypes = [(weight, self._output_dtype(weight.info)) for weight in layout.entries()]
        with layout_writer(folder, dtypes, self.plan.max_shard_bytes) as write:
            for loaded, merged in self._merge_all("merging", prepare):
                weight = layout.weights[loaded.name]
                if insisted is not None:
                    insisted.add(loaded.base, merged, self._output_dtype(weight.info))
                write(weight, merged, loaded.start)
            for weight in others:
                write(weight, weight.file.read(weight.key), 0)
        code = copy_settings(self.base, self.pipeline, folder, _short(self.dtype))
        if code:
            self.say(f"the model's own code is carried along ({', '.join(code)}): read it before you allow it to run")
        return self._say_rounding(rounding)

    def _choose_dtype(self, prepare: Preparation | None) -> Rounding:
        """Take float32 where the base's dtypes would round away too much; measuring that is a pass over all tensors."""
        rounding = Rounding()
        weights = self.files.base.weights
        if self.plan.dtype is None and any(is_narrow(weight.info.dtype) for weight in weights.values()):
            for loaded, merged in self._merge_all("measuring what rounding loses", prepare):
                rounding.add(loaded.base, merged, weights[loaded.name].info.dtype)
            if rounding.lost > NEGLIGIBLE:
                self.dtype = torch.float32
        return rounding

    def _say_rounding(self, rounding: Rounding) -> dict[str, Any]:
        """Print and return the fraction of the merged task vector that rounding loses, or would have lost."""
        if not rounding.dtypes:
            return {}
        names = " and ".join(rounding.dtypes)
        if rounding.lost > NEGLIGIBLE and self.plan.dtype is None:
            self.say(f"{names} would round away {rounding.lost:.0%} of the merged task vector: written in float32")
        elif rounding.lost > NEGLIGIBLE:
            self.say(f"{names}, as --dtype says, rounds away {rounding.lost:.0%} of the merged task vector")
        return {"rounding": {"dtypes": rounding.dtypes, "lost": rounding.lost}}

    def _output_dtype(self, info: TensorInfo) -> torch.dtype:
        return self.dtype if self.dtype and info.dtype.is_floating_point else info.dtype

    def _write_adapter(self, folder: Path, prepare: Preparation | None) -> dict[str, Any]:
        assert self.plan.adapter_rank is not None
        if read_json(self.base / "config.json").get("model_type") == "gpt2":
            raise UserError("adapters of gpt2, whose weights are transposed, are not written; leave --adapter_rank out")
        writer, others = AdapterWriter(self.plan.adapter_rank, self.plan.dtype or torch.float32), []
        for name, base, vectors, _ in self.files.each("merging"):
            if not self._is_changed(name, base, vectors):
                continue
            if base.ndim != 2 or "/" in name or not name.endswith(".weight"):
                others.append(name)
            else:
                writer.add(name, self._combine(name, torch.zeros_like(base), vectors, prepare))
        todo = "an adapter holds matrices of the backbone only; leave --adapter_rank out"
        refuse_keys("experts changed what no adapter can hold", others, todo)
        code = copy_settings(self.base, self.pipeline, folder, None)
        for name in ("config.json", *code):  # the base's, which an adapter has no copy of
            (folder / name).unlink()
        summary = writer.write(folder, self.plan.base)
        self.say(
            f"adapter of rank {summary['rank']}: relative error {summary['error']:.3g}, "
            f"worst {summary['worst_error']:.3g} in {summary['worst']}"
        )
        return {"adapter": summary}

    def _record(self, weights: str) -> dict[str, Any]:
        """Return the record of the merge: its models, method, coefficients and settings."""
        plan, names = self.plan, list(self.folders)
        a = plan.method.initial(len(names)).tolist() if plan.a is None else list(plan.a)
        experts = {
            name: {"path": plan.experts[name], "sha256": weights_identity(folder), **stated_licence(folder)}
            for name, folder in self.folders.items()
        }
        coefficients = {k: dict(zip(names, c.tolist(), strict=True)) for k, c in self.coefficients.items()}
        return {
            "base": {"path": plan.base, "sha256": weights, **stated_licence(self.base)},
            "experts": experts,
            "method": describe(plan.method),
            "a": dict(zip(names, a, strict=True)),
            **({"weights_by": {key: list(row) for key, row in plan.weights_by.items()}} if plan.weights_by else {}),
            "scale": plan.scale,
            "granularity": plan.granularity,
            "coefficients": coefficients,
            "dtype": _short(self.dtype) or AS_IN_THE_BASE,
            **({"settings_of": plan.settings_of} if plan.settings_of else {}),
            "settings": self.pipeline.settings,
        }


def _find_expert(model: str) -> Path:
    folder = Path(model).expanduser()
    return folder if is_adapter(folder) else find_base_model(model)


def _short(dtype: torch.dtype | None) -> str | None:
    return str(dtype).removeprefix("torch.") if dtype else None
