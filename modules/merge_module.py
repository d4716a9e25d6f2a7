"""Self Positioning: learning N + 1 numbers by gradient descent on a probe set.

Li et al. 2024, arXiv 2410.15035, section 3.2:
``(a*, lambda*) = argmin mean over data sets t of L_t(theta_0 + lambda V(a)) / L_t(theta_0) + mu * lambda``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from modules.checkpoints.base_model import find_base_model, weights_sha256
from modules.checkpoints.lineage import lineage_through, write_lineage
from modules.embedding_module import EmbeddingModule, rows_of
from modules.encoding.text_encoder import TextEncoder
from modules.errors import UserError
from modules.full_precision import without_autocast
from modules.losses.task_batch import TaskBatch
from modules.losses.task_loss import local
from modules.merging import MergeMethod, Slerp
from modules.positioning.ending import Ending, ending_of
from modules.positioning.experts import Expert, expert_folders, merged_encoder, refuse_wrong_experts
from modules.positioning.merge_identity import merge_identity, refuse_other_merge
from modules.positioning.merged_encoder import MergedEncoder
from modules.positioning.position import Position
from modules.positioning.relative_loss import refuse_undefined, validation_losses
from modules.positioning.task_vectors import load_task_vectors
from modules.search import Bfgs, Search


class MergeModule(EmbeddingModule):
    """Frozen base and task vectors; trains only the coefficients of a merge method and a scale.

    At the end of ``fit`` it stands at the best position seen on the probe-validation rows, the start included.
    A checkpoint holds the position and the identity of the merge it belongs to, no weights.

    Args:
        base: theta_0: a folder or a hub name.
        experts: name to model folder (or `Expert`), in the order of the merge.
        method: how task vectors are combined; the SLERP chain by default.
        granularity: what has coefficients and a scale of its own: ``model`` (the paper), ``layer``, ``tensor``, or a
            number of groups of layers; see `groups_of`.
        signed: whether a coefficient may become zero or negative, which drops or subtracts an expert.
        mu: weight of the scale in the objective; of several scales, of their mean.
        pull: weight of the L1 distance of the coefficients from their start (mean over groups) in the objective.
        search: how the numbers are found; BFGS on the whole probe by default, Adam on mini-batches in the paper.
        settled: training ends when no coefficient moved by more than this between two validations; 0 never ends.
        pooling: for a base that does not say how it pools.
        trust_remote_code: let transformers run code that comes with the models.
        allow_suspicious: merge experts that equal the base or each other, or come from another base.
        settings_of: ``base`` or the name of the expert whose longest text and prompts are taken, where models differ in
            them; null: they must agree.

    Raises:
        UserError: an expert is missing or does not fit the base.
    """

    def __init__(
        self,
        base: str,
        experts: dict[str, Expert],
        method: MergeMethod | None = None,
        granularity: int | str = "model",
        signed: bool = False,
        mu: float = 0.02,
        pull: float = 0.0,
        search: Search | None = None,
        settled: float = 1e-3,
        pooling: str | None = None,
        trust_remote_code: bool = False,
        allow_suspicious: bool = False,
        settings_of: str | None = None,
    ) -> None:
        method = method or Slerp()
        folders = expert_folders(experts)
        load = partial(TextEncoder.load, trust_remote_code=trust_remote_code)
        encoder = load(base, pooling=pooling)
        base_sha256 = weights_sha256(base)
        vectors = load_task_vectors(encoder, folders, settings_of, pooling, trust_remote_code)
        if not allow_suspicious:
            refuse_wrong_experts(encoder, base_sha256, folders, vectors)
        super().__init__(merged_encoder(encoder, vectors, folders, method, granularity, signed))
        self.mu, self.pull = mu, pull
        self.search = search or Bfgs()
        self.automatic_optimization = not self.search.full_probe
        self.settled = settled
        self.expert_names = list(folders)
        settings = {"granularity": granularity, "signed": signed, "mu": mu, "pull": pull}
        weights = {name: weights_sha256(path) for name, path in folders.items()}
        self.identity = merge_identity(base_sha256, weights, method, self.search, **settings)
        self.ancestors = lineage_through(find_base_model(base), base_sha256)
        self.base_losses: dict[str, float] = {}
        self._measured_on: dict[str, Any] = {}
        self._load = load
        self._reference: Callable[[], TextEncoder] | None = None
        self._resumed = False
        self._begin()
        # A position is in every checkpoint, the frozen weights in none.
        self.strict_loading = False
        # DDP would broadcast what it finds, and only the N + 1 numbers are anybody's business.
        frozen = [name for name, p in self.named_parameters() if not p.requires_grad]
        self._ddp_params_and_buffers_to_ignore = frozen + [name for name, _ in self.named_buffers()]

    def _begin(self) -> None:
        """Forget whatever another search has found: this one starts where the position stands."""
        self.best: dict[str, Any] = {"objective": math.inf, "position": None}
        self.passes = {"forward": 0, "backward": 0}
        self.history: list[dict[str, float]] = []
        self._start = self.position.coefficients().detach()
        self._last_coefficients = self._start
        self._start_objective = math.nan
        self._last_value = torch.tensor(math.nan)

    @property
    def position(self) -> Position:
        """The trainable numbers."""
        assert isinstance(self.encoder, MergedEncoder)
        return self.encoder.position

    @property
    def ending(self) -> Ending:
        """How the last search ended, or where it is."""
        return ending_of(self.history, self._start_objective, self.settled)

    @property
    def full_probe(self) -> bool:
        """Whether a training batch is the list of all probe batches of this process; the data module asks."""
        return self.search.full_probe

    def describe_position(self) -> dict[str, float]:
        """``a/<expert>`` in units of their mean, ``c/<expert>`` (the factor of its task vector), and ``scale``.

        With several groups the names go on: ``c/<expert>/<group>``.
        """
        labels = self.position.labels
        return {
            key if len(labels) == 1 else f"{key}/{label}": float(value)
            for key, values in self._position_by_group().items()
            for label, value in zip(labels, values, strict=True)
        }

    def mean_position(self) -> dict[str, float]:
        """The same, each number the mean over the groups."""
        return {key: float(values.mean()) for key, values in self._position_by_group().items()}

    @torch.no_grad()
    def _position_by_group(self) -> dict[str, Tensor]:
        a, c, scale = self.position.a, self.position.coefficients(), self.position.scale
        a = a / a.abs().mean(1, keepdim=True) if self.position.method.has_scale else a
        by_expert = {
            f"{key}/{n}": of[:, i] for key, of in (("a", a), ("c", c)) for i, n in enumerate(self.expert_names)
        }
        return by_expert | {"scale": scale}

    def start_from(self, position: Mapping[str, float]) -> None:
        """Start where another merge has ended: at the same coefficients ``c``, whatever the two methods are.

        New experts get the mean of the others. Of a method that prepares the task vectors (TIES, DARE, Fisher,
        RegMean), ``c`` are the factors of what it has prepared, so that the start is the same model only if both
        prepare alike.

        Args:
            position: as `describe_position` says it.

        Raises:
            UserError: either position has several groups, they have no expert in common, or this one cannot have
                these coefficients.
        """
        known = {name: position[f"c/{name}"] for name in self.expert_names if f"c/{name}" in position}
        if not known or len(self.position.labels) > 1:
            raise UserError(f"cannot start from a position of {', '.join(position)}: it has other experts, or groups")
        mean = sum(known.values()) / len(known)
        c = [known.get(name, mean) for name in self.expert_names]
        self.position.stand_where(torch.tensor(c, dtype=torch.float64))

    def relative_to(self, model: str, pooling: str | None = None) -> None:
        """Take losses relative to this model's, not to theta_0's.

        Around a joint model, theta_0's own losses would weigh most the tasks that it has learned best. The losses
        relative to the recipe's base are the same numbers whatever the task vectors are taken against.

        Args:
            model: a folder or a hub name; it is loaded for the time that it is measured.
            pooling: of a plain transformers folder.
        """
        self._reference, self._measured_on = partial(self._load, model, pooling=pooling), {}
        self.identity["reference"] = weights_sha256(model)

    def on_fit_start(self) -> None:
        """Measure the base, which normalises the losses, and the start, which a learned position has to beat.

        A run that goes on from a checkpoint has both in it, unless it goes on with other validation rows.
        """
        super().on_fit_start()
        resumed, self._resumed = self._resumed, False
        if resumed and self._knows_base():
            return
        self._begin()
        self._know_base()
        self._start_objective = self._objective(validation_losses(self.encoder, self.trainer))
        self._keep_if_best(self._start_objective)

    def training_step(self, batch: TaskBatch | list[TaskBatch], batch_idx: int) -> Tensor:
        """The objective of one probe batch; of the whole probe, for a search that moves on it by itself."""
        if isinstance(batch, TaskBatch):
            self.passes["forward"] += 1
            self.passes["backward"] += 1
            output = self.training_loss(batch, local)
            self.log_training(output, batch)
            return output.loss / self.base_losses[batch.task] + self._regulariser().to(output.loss)
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.step(closure=partial(self._evaluate_probe, batch))
        self.log("train/objective", self._last_value.to(self.device, torch.float32), prog_bar=True, batch_size=1)
        return self._last_value

    def on_train_batch_end(self, outputs: Any, batch: TaskBatch | list[TaskBatch], batch_idx: int) -> None:
        """End training at the first step that leads nowhere."""
        finite = all(bool(number.isfinite().all()) for number in self.position.parameters())
        last = batch if isinstance(batch, TaskBatch) else batch[-1]
        self.stop_unless(finite, lambda: f"the coefficients are not finite: the last batch was {rows_of(last)},")

    def _evaluate_probe(self, batches: Sequence[TaskBatch]) -> Tensor:
        """The objective over the whole probe, over all processes; its gradient goes to ``.grad`` where enabled.

        The gradient does not go through ``backward``, so DDP has nothing to reduce: N + 1 numbers are, here.
        """
        numbers = [p for p in self.position.parameters() if p.requires_grad]
        value = torch.zeros((), device=self.device, dtype=torch.float32)
        gradients = [torch.zeros_like(p) for p in numbers]
        gradient = torch.is_grad_enabled()
        for batch in batches:
            loss = self.training_loss(batch, local).loss / self.base_losses[batch.task]
            value += loss.detach()
            if gradient:
                with without_autocast(loss):  # where `backward` would be; this is within the training step
                    parts = torch.autograd.grad(loss, numbers)
                for total, part in zip(gradients, parts, strict=True):
                    total += part
        self.passes["forward"] += len(batches)
        self.passes["backward"] += len(batches) * gradient
        reduce = partial(self.trainer.strategy.reduce, reduce_op="mean")
        regulariser = self._regulariser()
        if gradient:
            pulls = torch.autograd.grad(regulariser, numbers, allow_unused=True) if regulariser.requires_grad else ()
            for number, total, pull in zip_longest(numbers, gradients, pulls):
                number.grad = reduce(total / len(batches)) + (0.0 if pull is None else pull)
        self._last_value = reduce(value / len(batches)).cpu() + regulariser.detach()
        return self._last_value

    def _regulariser(self) -> Tensor:
        """``mu`` times the mean scale, which for tied scales is ``mu * lambda``, and the pull to the start."""
        position, value = self.position, torch.zeros((), dtype=torch.float64)
        if position.method.has_scale:
            value = value + self.mu * position.scale.mean()
        if self.pull:
            value = value + self.pull * (position.coefficients() - self._start).abs().sum(1).mean()
        return value

    def on_validation_start(self) -> None:
        """Make the metrics; measure the base first where it has not been measured on these rows."""
        super().on_validation_start()
        self._know_base()

    def validation_objective(self, losses: Tensor) -> Tensor:
        """Mean over data sets of the loss relative to the base's (the base itself gives 1); keeps the best position."""
        objective = self._objective(dict(zip(self.task_losses, losses.tolist(), strict=True)))
        # Neither in the verb `validate` nor in Lightning's sanity check, which sees a few batches only.
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            now = self.position.coefficients().detach()
            moved = float((now - self._last_coefficients).abs().max())
            self._last_coefficients = now
            self.history.append({**self.passes, "objective": objective, "moved": moved})
            self._keep_if_best(objective)
            if self.ending.settled:
                self.trainer.should_stop = True
        return losses.new_tensor(objective)

    def on_fit_end(self) -> None:
        """Stand at the best position seen."""
        self.keep_best()

    def keep_best(self) -> None:
        """Stand at the best position seen, if one was."""
        if self.best["position"] is not None:
            self.position.load_state_dict(self.best["position"])

    def configure_optimizers(self) -> Optimizer:
        """The search's optimizer, over the position, which must be all that trains."""
        trained = [p for p in self.parameters() if p.requires_grad]
        expected = [p for p in self.position.parameters() if p.requires_grad]
        assert {*map(id, trained)} == {*map(id, expected)}, "something beside the position would be trained"
        return self.search.optimizer(trained)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the position and what it refers to; drop everything frozen."""
        super().on_save_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: state[key] for key in state if key.startswith("encoder.position.")}
        checkpoint["merge"] = {
            "identity": self.identity,
            "base_losses": self.base_losses,
            "measured_on": self._measured_on,
            "start": self._start,
            "best": self.best,
            "passes": self.passes,
            "history": self.history,
            "last_coefficients": self._last_coefficients,
            "start_objective": self._start_objective,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a position that was learned between other models, or in another way."""
        merge = checkpoint.get("merge")
        if merge is None:
            raise UserError("the checkpoint is not one of a MergeModule")
        refuse_other_merge(merge["identity"], self.identity)
        super().on_load_checkpoint(checkpoint)
        self.base_losses, self._measured_on = merge["base_losses"], merge["measured_on"]
        self._start, self.best = merge["start"], merge["best"]
        self.passes, self.history = merge["passes"], merge["history"]
        self._last_coefficients, self._start_objective = merge["last_coefficients"], merge["start_objective"]
        self._resumed = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    def save(self, folder: str | Path) -> None:
        """Write the merged model as a folder that ``SentenceTransformer(folder)`` loads."""
        assert isinstance(self.encoder, MergedEncoder)
        self.encoder.save(str(folder))
        write_lineage(folder, self.ancestors)

    def _knows_base(self) -> bool:
        """Whether the base was measured on the validation rows of the present data module."""
        measured_on: dict[str, Any] = self.trainer.datamodule.validation_identity  # type: ignore[attr-defined]
        return self._measured_on == measured_on

    def _know_base(self) -> None:
        """Measure the base, or what stands in its place, unless it was measured on these rows."""
        if self._knows_base():
            return
        assert isinstance(self.encoder, MergedEncoder)
        own, other = self.encoder.base, self._reference
        base = own if other is None else other().eval().to(self.device)
        self.base_losses = validation_losses(base, self.trainer)
        refuse_undefined(self.base_losses)
        self._measured_on = self.trainer.datamodule.validation_identity  # type: ignore[attr-defined]

    def _objective(self, losses: dict[str, float]) -> float:
        for task, loss in losses.items():
            self.stop_unless(math.isfinite(loss), partial("the validation loss of '{}' is {}".format, task, loss))
        weights: dict[str, float] = self.trainer.datamodule.objective_weights  # type: ignore[attr-defined]
        return sum(weights[task] * loss / self.base_losses[task] for task, loss in losses.items())

    def _keep_if_best(self, objective: float) -> None:
        if objective < self.best["objective"]:
            position = {key: value.detach().cpu().clone() for key, value in self.position.state_dict().items()}
            self.best = {"objective": objective, "position": position}
