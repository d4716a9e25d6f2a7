"""Self Positioning (Li et al. 2024, arXiv 2410.15035): learning N + 1 numbers by gradient descent on a probe set."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.identity import weights_identity
from modules.checkpoints.lineage import lineage_through, write_lineage
from modules.distributed import local
from modules.embedding_module import EmbeddingModule, rows_of
from modules.encoding.text_encoder import TextEncoder
from modules.errors import UserError
from modules.losses.task_batch import TaskBatch
from modules.merging import MergeMethod, Slerp
from modules.positioning import named_position
from modules.positioning.best_position import BestPosition
from modules.positioning.experts import Expert, expert_folders, merged_encoder, refuse_wrong_experts
from modules.positioning.merge_identity import merge_identity, refuse_other_merge
from modules.positioning.merged_encoder import MergedEncoder
from modules.positioning.objective import Objective
from modules.positioning.position import Position
from modules.positioning.relative_loss import validation_losses
from modules.positioning.task_vectors import load_task_vectors
from modules.search import Bfgs, Search


class MergeModule(EmbeddingModule):
    """Trains the coefficients of a merge method and a scale; the base and the task vectors are frozen.

    At the end of ``fit`` it stands at the best position seen on the probe-validation rows, the start included.
    A checkpoint holds the position and the identity of the merge it belongs to, no weights.

    Attributes:
        relative_losses: data set to its loss relative to the base's at the last validation of a fit, or at its start;
            empty where a resumed fit has not validated yet.

    Args:
        base: theta_0: a folder or a hub name.
        experts: name to folder or hub name (or to an `Expert`, which in recipes may be trained first), in the order of
            the merge.
        method: how task vectors are combined; the SLERP chain by default.
        granularity: parts with coefficients and a scale of their own: ``model`` (the paper), ``layer``, ``tensor``, or
            a number of groups of layers; see `groups_of`.
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
        attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2``; None: transformers' default.

    Raises:
        UserError: an expert is missing or does not fit the base.

    Example:
        >>> merge = MergeModule("experts/base", {"sts": "experts/sts", "faq": "experts/faq"})
        >>> Trainer(max_epochs=40).fit(merge, datamodule=ProbeDataModule(tasks))
        >>> merge.save("merged")
    """

    def __init__(
        self,
        base: str,
        experts: Mapping[str, Expert | str],
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
        attn_implementation: str | None = None,
    ) -> None:
        method = method or Slerp()
        folders = expert_folders(experts)
        load = partial(TextEncoder.load, trust_remote_code=trust_remote_code, attn_implementation=attn_implementation)
        encoder = load(base, pooling=pooling)
        base_weights = weights_identity(base)
        vectors = load_task_vectors(encoder, folders, settings_of, pooling, trust_remote_code)
        if not allow_suspicious:
            refuse_wrong_experts(encoder, base_weights, folders, vectors)
        super().__init__(merged_encoder(encoder, vectors, folders, method, granularity, signed))
        self.search = search or Bfgs()
        self.automatic_optimization = not self.search.full_probe
        self.objective = Objective(self.position, mu, pull)
        self.best = BestPosition(self.position, settled)
        self.expert_names = list(folders)
        settings = {"granularity": granularity, "signed": signed, "mu": mu, "pull": pull}
        weights = {name: weights_identity(path) for name, path in folders.items()}
        self.identity = merge_identity(base_weights, weights, method, self.search, **settings)
        self.ancestors = lineage_through(find_base_model(base), base_weights, rank_zero_info)
        self.origin = base  # where the last of them lies
        self.passes = {"forward": 0, "backward": 0}
        self.relative_losses: dict[str, float] = {}
        self._last_value = torch.tensor(math.nan)
        self._load = load
        self._reference: Callable[[], TextEncoder] | None = None
        self._resumed = False
        # A position is in every checkpoint, the frozen weights in none.
        self.strict_loading = False
        # DDP would broadcast all tensors when it is built; only the N + 1 numbers need it.
        frozen = [name for name, p in self.named_parameters() if not p.requires_grad]
        self._ddp_params_and_buffers_to_ignore = frozen + [name for name, _ in self.named_buffers()]

    @property
    def position(self) -> Position:
        """The trainable position."""
        assert isinstance(self.encoder, MergedEncoder)
        return self.encoder.position

    @property
    def full_probe(self) -> bool:
        """Whether a training batch is the list of all probe batches of this process; the data module asks."""
        return self.search.full_probe

    def describe_position(self) -> dict[str, float]:
        """Return ``a/<expert>``, ``c/<expert>`` and ``scale`` by group; see `named_position.describe_position`."""
        return named_position.describe_position(self.position, self.expert_names)

    def mean_position(self) -> dict[str, float]:
        """Return the numbers of `describe_position`, each the mean over the groups."""
        return named_position.mean_position(self.position, self.expert_names)

    def coefficients_by_group(self) -> dict[str, dict[str, float]]:
        """Return group to expert to the factor of its prepared task vector, as `Plan.c` has it."""
        return named_position.coefficients_by_group(self.position, self.expert_names)

    def start_from(self, position: Mapping[str, float]) -> None:
        """Move to the position of another merge; see `named_position.start_from`.

        Args:
            position: of the other merge, as its `describe_position` returns it.
        """
        named_position.start_from(self.position, self.expert_names, position)

    def relative_to(self, model: str, pooling: str | None = None) -> None:
        """Take losses relative to those of a reference model, in place of theta_0's.

        Around a joint model, theta_0's own losses would weigh most the tasks that it has learned best. The losses
        relative to the recipe's base are the same numbers whatever the task vectors are taken against.

        Args:
            model: a folder or a hub name; the model is in memory only while it is measured.
            pooling: of a plain transformers folder.
        """
        self._reference = partial(self._load, model, pooling=pooling)
        self.objective.forget_base()
        self.identity["reference"] = weights_identity(model)

    def on_fit_start(self) -> None:
        """Measure the base, which normalises the losses, and the start, which a learned position has to beat.

        A run that goes on from a checkpoint takes both from it, unless the validation rows are others.

        Raises:
            UserError: the method cannot be learned.
        """
        self.position.method.refuse_learning()
        super().on_fit_start()
        resumed, self._resumed = self._resumed, False
        self.relative_losses = {}
        if resumed and self.objective.is_measured_on(self._ask_data("validation_identity")):
            return
        self.passes = {"forward": 0, "backward": 0}
        self.best.forget()
        self.objective.start_here()
        self._know_base()
        losses = validation_losses(self.encoder, self.trainer)
        self.best.begin(self._objective_of(losses))
        self.relative_losses = self.objective.relative_losses(losses)

    def training_step(self, batch: TaskBatch | list[TaskBatch], batch_idx: int) -> Tensor:
        """Return the objective on a probe batch, or take a step of a search on the whole probe.

        Args:
            batch: a probe batch, or all probe batches of this process where `full_probe` is set.
            batch_idx: number of the batch.

        Returns:
            The objective on the batch, or the value that the search evaluated last.
        """
        if isinstance(batch, TaskBatch):
            self.passes["forward"] += 1
            self.passes["backward"] += 1
            output = self.training_loss(batch, local)
            self.log_training(output, batch)
            relative = self.objective.relative_loss(batch.task, output.loss)
            return relative + self.objective.regulariser().to(relative)
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.step(closure=partial(self._evaluate_probe, batch))
        self.log("train/objective", self._last_value.to(self.device, torch.float32), prog_bar=True, batch_size=1)
        return self._last_value

    def on_train_batch_end(self, outputs: Any, batch: TaskBatch | list[TaskBatch], batch_idx: int) -> None:
        """End training if the position is not finite.

        Raises:
            UserError: a number of the position is NaN or infinite.
        """
        finite = all(bool(number.isfinite().all()) for number in self.position.parameters())
        last = batch if isinstance(batch, TaskBatch) else batch[-1]
        self.stop_unless(finite, lambda: f"the coefficients are not finite: the last batch was {rows_of(last)},")

    def _evaluate_probe(self, batches: Sequence[TaskBatch]) -> Tensor:
        """Return the objective over the whole probe, and leave its gradient in ``.grad`` where that is enabled."""
        reduce = partial(self.trainer.strategy.reduce, reduce_op="mean")
        self._last_value = self.objective.over_probe(
            batches, lambda batch: self.training_loss(batch, local).loss, reduce
        )
        self.passes["forward"] += len(batches)
        self.passes["backward"] += len(batches) * torch.is_grad_enabled()
        return self._last_value

    def on_validation_start(self) -> None:
        """Make the metrics, and measure the base unless it was measured on these validation rows."""
        super().on_validation_start()
        self._know_base()

    def validation_objective(self, losses: Tensor) -> Tensor:
        """Return the weighted mean of the losses relative to the base's.

        Within ``fit``, keep the best position, and end training when the search has settled.

        Args:
            losses: ``[data sets]``, the mean loss of each.

        Raises:
            UserError: a loss is not finite.
        """
        by_name = dict(zip(self.task_losses, losses.tolist(), strict=True))
        objective = self._objective_of(by_name)
        # Neither in the verb `validate` nor in Lightning's sanity check, which sees a few batches only.
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self.best.see(objective, self.passes)
            self.relative_losses = self.objective.relative_losses(by_name)
            if self.best.ending.settled:
                self.trainer.should_stop = True
        return losses.new_tensor(objective)

    def on_fit_end(self) -> None:
        """Move to the best position seen."""
        self.keep_best()

    def keep_best(self) -> None:
        """Move to the best position seen, if there is one."""
        self.best.restore()

    def configure_optimizers(self) -> Optimizer:
        """Return the search's optimizer of the position, the only trainable part."""
        trained = [p for p in self.parameters() if p.requires_grad]
        expected = [p for p in self.position.parameters() if p.requires_grad]
        assert {*map(id, trained)} == {*map(id, expected)}, "something beside the position would be trained"
        return self.search.optimizer(trained)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the position, the identity of its merge and the state of its search; drop the frozen weights."""
        super().on_save_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: state[key] for key in state if key.startswith("encoder.position.")}
        checkpoint["merge"] = {
            "identity": self.identity,
            "objective": self.objective.state_dict(),
            "best": self.best.state_dict(),
            "passes": self.passes,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the position and the state of its search.

        Raises:
            UserError: the checkpoint is not of a merge, or of a merge of other models or settings.
        """
        merge = checkpoint.get("merge")
        if merge is None:
            raise UserError("the checkpoint is not one of a MergeModule")
        refuse_other_merge(merge["identity"], self.identity)
        super().on_load_checkpoint(checkpoint)
        self.objective.load_state_dict(merge["objective"])
        self.best.load_state_dict(merge["best"])
        self.passes = merge["passes"]
        self._resumed = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    def save(self, folder: str | Path) -> None:
        """Write the merged model, with its lineage, as a folder that ``SentenceTransformer(folder)`` loads."""
        assert isinstance(self.encoder, MergedEncoder)
        self.encoder.save(str(folder))
        write_lineage(folder, self.ancestors, self.origin)

    def _know_base(self) -> None:
        """Measure the base, or the reference model, unless it was measured on these validation rows."""
        rows = self._ask_data("validation_identity")
        if self.objective.is_measured_on(rows):
            return
        assert isinstance(self.encoder, MergedEncoder)
        own, other = self.encoder.base, self._reference
        base = own if other is None else other().eval().to(self.device)
        self.objective.measure_base(base, self.trainer, rows)

    def _objective_of(self, losses: dict[str, float]) -> float:
        """Return the objective of the losses of a validation, all of which must be finite."""
        for task, loss in losses.items():
            self.stop_unless(math.isfinite(loss), partial("the validation loss of '{}' is {}".format, task, loss))
        return self.objective.validated(losses, self._ask_data("objective_weights"))
