"""CMA-ES: a search without gradients."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.search.search import Closure, NumberOptimizer, Search

if TYPE_CHECKING:
    from cmaes import CMA


class CmaEs(Search):
    """CMA-ES (Hansen 2016, arXiv 1604.00772; library ``cmaes``), one step per generation.

    It is for objectives without a gradient, and for comparison with gradient searches at equal forward passes.
    After each generation the position stands at the mean of the search distribution.

    Args:
        sigma: standard deviation of the first generation, in the units of the raw numbers.
        population: evaluations per generation; None: ``4 + 3 ln(numbers)``.
        seed: of the random numbers, the same in every process.

    Example:
        >>> numbers = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = CmaEs().optimizer([numbers])
        >>> for _ in range(50):
        ...     lowest = optimizer.step(lambda: numbers.square().sum())
    """

    full_probe = True

    def __init__(self, sigma: float = 0.3, population: int | None = None, seed: int = 0) -> None:
        self.sigma = sigma
        self.population = population
        self.seed = seed

    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """Return a `CmaEsOptimizer`."""
        return CmaEsOptimizer(parameters, self)


class CmaEsOptimizer(NumberOptimizer):
    """The optimizer of `CmaEs`.

    Args:
        parameters: the numbers, at least 2.
        settings: of the search.
    """

    def __init__(self, parameters: list[nn.Parameter], settings: CmaEs) -> None:
        super().__init__(parameters)
        self.settings = settings
        self._cma: CMA | None = None

    @torch.no_grad()
    def step(self, closure: Closure) -> Tensor:  # type: ignore[override]
        """Evaluate one generation and move to the new mean; return the best value of the generation."""
        cma = self._cma or self._restored()
        points = [torch.from_numpy(cma.ask()) for _ in range(cma.population_size)]
        values = []
        for point in points:
            self.move_to(point)
            values.append(closure().detach().cpu().double())
        cma.tell([(point.numpy(), float(value)) for point, value in zip(points, values, strict=True)])
        self.move_to(torch.from_numpy(cma.mean))
        self.memory["values"] = torch.cat([self.memory["values"], torch.stack(values)])
        return torch.stack(values).min()

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Load a state; the next step goes on from it."""
        super().load_state_dict(state_dict)
        self._cma = None

    def _restored(self) -> "CMA":
        """Return the search as it was, from the start, the seed and all values so far."""
        from cmaes import CMA  # here, because no other search needs it

        memory = self.memory
        memory.setdefault("start", self.numbers())
        memory.setdefault("values", torch.empty(0, dtype=torch.float64))
        start, settings = memory["start"], self.settings
        self._cma = cma = CMA(start.numpy(), settings.sigma, population_size=settings.population, seed=settings.seed)
        for generation in memory["values"].view(-1, cma.population_size):
            cma.tell([(cma.ask(), float(value)) for value in generation])
        return cma
