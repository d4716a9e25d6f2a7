"""Self Positioning: learning N + 1 numbers by gradient descent on a probe set.

Li et al. 2024, arXiv 2410.15035, section 3.2:
``(a*, lambda*) = argmin mean over data sets t of L_t(theta_0 + lambda V(a)) / L_t(theta_0) + mu * lambda``.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Adam

from modules.base_model import weights_sha256
from modules.embedding_module import EmbeddingModule
from modules.encoder import TextEncoder
from modules.errors import UserError
from modules.merged_encoder import MergedEncoder
from modules.merging import MergeMethod, Slerp
from modules.position import Position
from modules.task_batch import TaskBatch
from modules.task_loss import local, task_loss
from modules.task_vectors import gram_matrix, load_task_vectors


@dataclass(frozen=True)
class Expert:
    """Where an expert comes from; one of the two.

    Args:
        path: a trained model's folder or hub name.
        recipe: the name of a recipe under ``recipes``, trained first where its result is not there yet.
    """

    path: str | None = None
    recipe: str | None = None


class MergeModule(EmbeddingModule):
    """Frozen base and task vectors; trains only the coefficients of a merge method and a scale.

    At the end of ``fit`` it stands at the best position seen on the probe-validation rows, the start included.
    A checkpoint holds the position and the sha256 of what it refers to, no weights.

    Args:
        base: theta_0: a folder or a hub name.
        experts: name to model folder (or `Expert`), in the order of the merge.
        method: how task vectors are combined; the SLERP chain by default.
        mu: weight of the scale in the objective.
        lr: learning rate of Adam.
        settled: training ends when no coefficient moved by more than this between two validations; 0 never ends.
        pooling: for a base that does not say how it pools.
        trust_remote_code: let transformers run code that comes with the base.

    Raises:
        UserError: an expert is missing or does not fit the base.
    """

    def __init__(
        self,
        base: str,
        experts: dict[str, Expert],
        method: MergeMethod | None = None,
        mu: float = 0.02,
        lr: float = 5e-3,
        settled: float = 1e-3,
        pooling: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        method = method or Slerp()
        self_positioning = _load(base, _folders(experts), method, pooling, trust_remote_code)
        super().__init__(self_positioning)
        self.mu = mu
        self.lr = lr
        self.settled = settled
        self.expert_names = list(experts)
        self.identity = {"base": weights_sha256(base)}
        self.identity |= {name: weights_sha256(path) for name, path in _folders(experts).items()}
        self.base_losses: dict[str, float] = {}
        self.best: dict[str, Any] = {"objective": math.inf, "position": None}
        self._last_coefficients: Tensor | None = None
        # A position is in every checkpoint, the frozen weights in none.
        self.strict_loading = False
        # DDP would broadcast what it finds, and only the N + 1 numbers are anybody's business.
        frozen = [name for name, p in self.named_parameters() if not p.requires_grad]
        self._ddp_params_and_buffers_to_ignore = frozen + [name for name, _ in self.named_buffers()]

    @property
    def position(self) -> Position:
        """The trainable numbers."""
        assert isinstance(self.encoder, MergedEncoder)
        return self.encoder.position

    def describe_position(self) -> dict[str, float]:
        """``a/<expert>`` in units of their mean, ``c/<expert>`` (the factor of its task vector), and ``scale``."""
        with torch.no_grad():
            a, c = self.position.a, self.position.coefficients()
            a = a / a.mean() if self.position.method.has_scale else a
            described = {f"a/{name}": float(value) for name, value in zip(self.expert_names, a, strict=True)}
            described |= {f"c/{name}": float(value) for name, value in zip(self.expert_names, c, strict=True)}
            return described | {"scale": float(self.position.scale)}

    def on_fit_start(self) -> None:
        """Measure the base, which normalises the losses, and the start, which a learned position has to beat."""
        if not self.base_losses:
            assert isinstance(self.encoder, MergedEncoder)
            self.base_losses = self._measure(self.encoder.base)
            self._keep_if_best(self._objective(self._measure(self.encoder)))

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        """The loss of one probe batch relative to the base's, plus ``mu * lambda``."""
        output = task_loss(self.encoder, batch, local)
        self.log_training(output, batch)
        objective = output.loss / self.base_losses[batch.task]
        if self.position.method.has_scale:
            objective = objective + self.mu * self.position.scale.to(objective)
        return objective

    def on_validation_start(self) -> None:
        """Make the metrics; outside ``fit``, measure the base first."""
        super().on_validation_start()
        if not self.base_losses:
            assert isinstance(self.encoder, MergedEncoder)
            self.base_losses = self._measure(self.encoder.base)

    def validation_objective(self, losses: Tensor) -> Tensor:
        """Mean over data sets of the loss relative to the base's (the base itself gives 1); keeps the best position."""
        objective = self._objective(dict(zip(self.task_losses, losses.tolist(), strict=True)))
        # Neither in the verb `validate` nor in Lightning's sanity check, which sees a few batches only.
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._keep_if_best(objective)
            self._stop_if_settled()
        return torch.tensor(objective)

    def on_fit_end(self) -> None:
        """Stand at the best position seen."""
        if self.best["position"] is not None:
            self.position.load_state_dict(self.best["position"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam over the position, which must be all that trains."""
        trained = [p for p in self.parameters() if p.requires_grad]
        expected = [p for p in self.position.parameters() if p.requires_grad]
        assert {*map(id, trained)} == {*map(id, expected)}, "something beside the position would be trained"
        return Adam(trained, lr=self.lr)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the position and what it refers to; drop everything frozen."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: state[key] for key in state if key.startswith("encoder.position.")}
        checkpoint["merge"] = {
            "identity": self.identity,
            "base_losses": self.base_losses,
            "best": self.best,
            "last_coefficients": self._last_coefficients,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a position that was learned between other models."""
        merge = checkpoint.get("merge")
        if merge is None:
            raise UserError("the checkpoint is not one of a MergeModule")
        for name in self.identity.keys() | merge["identity"].keys():
            if self.identity.get(name) != merge["identity"].get(name):
                raise UserError(f"the checkpoint was learned with another '{name}': its weights differ")
        self.base_losses, self.best = merge["base_losses"], merge["best"]
        self._last_coefficients = merge["last_coefficients"]

    def save(self, folder: str | Path) -> None:
        """Write the merged model as a folder that ``SentenceTransformer(folder)`` loads."""
        assert isinstance(self.encoder, MergedEncoder)
        self.encoder.save(str(folder))

    @torch.no_grad()
    def _measure(self, encoder: nn.Module) -> dict[str, float]:
        """Mean loss of an encoder on the probe-validation rows of each data set, over all processes."""
        losses = {}
        for task, loader in zip(self.task_losses, self.trainer.datamodule.val_dataloader(), strict=True):  # type: ignore[attr-defined]
            total = torch.zeros(2, device=self.device)  # sum of losses, number of rows
            for batch in loader:
                moved = batch.to(self.device)
                with self.trainer.strategy.precision_plugin.val_step_context():
                    loss = task_loss(encoder, moved, local).loss
                total += torch.stack([loss.float() * len(batch), loss.new_tensor(float(len(batch))).float()])
            total = self.trainer.strategy.reduce(total, reduce_op="sum")
            losses[task] = float(total[0] / total[1])
        return losses

    def _objective(self, losses: dict[str, float]) -> float:
        weights: dict[str, float] = self.trainer.datamodule.objective_weights  # type: ignore[attr-defined]
        return sum(weights[task] * loss / self.base_losses[task] for task, loss in losses.items())

    def _keep_if_best(self, objective: float) -> None:
        if objective < self.best["objective"]:
            position = {key: value.detach().cpu().clone() for key, value in self.position.state_dict().items()}
            self.best = {"objective": objective, "position": position}

    def _stop_if_settled(self) -> None:
        now = self.position.coefficients().detach()
        before, self._last_coefficients = self._last_coefficients, now
        if before is not None and (now - before).abs().max() < self.settled:
            self.trainer.should_stop = True


def _folders(experts: dict[str, Expert]) -> dict[str, str]:
    folders = {}
    for name, expert in experts.items():
        path = expert.path if isinstance(expert, Expert) else expert
        if path is None:
            raise UserError(f"expert '{name}' has no path; a recipe is trained by `python -m lightning_app fit`")
        folders[name] = path
    if not folders:
        raise UserError("a merge needs at least one expert")
    return folders


def _load(
    base: str, experts: dict[str, str], method: MergeMethod, pooling: str | None, trust_remote_code: bool
) -> MergedEncoder:
    encoder = TextEncoder.load(base, pooling=pooling, trust_remote_code=trust_remote_code)
    vectors = load_task_vectors(encoder, experts)
    if not vectors:
        raise UserError(f"every expert equals the base {base}: there is nothing to merge")
    names = list(experts)
    position = Position(method, gram_matrix(vectors), merge_order(method, names))
    return MergedEncoder(encoder, vectors, position)


def merge_order(method: MergeMethod, experts: list[str]) -> list[int]:
    """Indices of the experts in the order in which a method takes them.

    Raises:
        UserError: the method's order does not name each expert once.
    """
    order = method.order or experts
    if sorted(order) != sorted(experts):
        raise UserError(f"the order {order} of {type(method).__name__} does not name the experts {experts}")
    return [experts.index(name) for name in order]
