"""Adam on mini-batches: the paper's search."""

from torch import nn, optim
from torch.optim import Optimizer

from modules.search.search import Search


class Adam(Search):
    """A step a probe batch (Kingma & Ba 2014, arXiv 1412.6980).

    Args:
        lr: learning rate, in the units of the raw numbers.
    """

    def __init__(self, lr: float = 5e-3) -> None:
        self.lr = lr

    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """PyTorch's Adam."""
        return optim.Adam(parameters, lr=self.lr)
