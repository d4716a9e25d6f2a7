"""Adam on mini-batches: the paper's search."""

from torch import nn, optim
from torch.optim import Optimizer

from modules.search.search import Search


class Adam(Search):
    """Adam (Kingma & Ba 2014, arXiv 1412.6980), one step per probe batch.

    Args:
        lr: learning rate, in the units of the raw numbers.

    Example:
        >>> merge = MergeModule("experts/base", {"sts": "experts/sts", "faq": "experts/faq"}, search=Adam(lr=5e-3))
        >>> Trainer(max_steps=1000).fit(merge, datamodule=ProbeDataModule(tasks))
    """

    def __init__(self, lr: float = 5e-3) -> None:
        self.lr = lr

    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """Return PyTorch's Adam."""
        return optim.Adam(parameters, lr=self.lr)
