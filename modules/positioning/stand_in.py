"""Other tensors in the place of a module's parameters, for as long as a forward or a backward pass runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn
from torch.autograd import Variable


class StandIn:
    """Puts tensors in the place of parameters while the module runs; at all other times it is as it was.

    ``torch.func.functional_call`` does so for the forward pass only. Gradient checkpointing runs layers again in the
    backward pass, and they have to find there what they found before.

    Args:
        module: a module of any kind.
        parameters: name to parameter of the module; a tied parameter is replaced in all its places.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> with StandIn(layer, {"weight": layer.weight}).in_forward({"weight": torch.ones(1, 2)}):
        ...     embeddings = layer(inputs)
    """

    def __init__(self, module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        self._own: Mapping[str, Tensor] = parameters
        self._present: Mapping[str, Tensor] = parameters
        names = {id(parameter): name for name, parameter in parameters.items()}
        self._places = [
            (owner, leaf, names[id(parameter)])
            for owner in module.modules()
            for leaf, parameter in owner.named_parameters(recurse=False, remove_duplicate=False)
            if id(parameter) in names
        ]

    @contextmanager
    def in_forward(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Put tensors in the place of the module's parameters within the block.

        Args:
            tensors: by the names of the parameters.
        """
        before, self._present = self._present, tensors
        self._put()
        try:
            yield
        finally:
            self._present = before  # other tensors, if a backward pass runs this forward pass again
            self._put()

    def in_backward(self, tensors: Mapping[str, Tensor]) -> None:
        """Put tensors in the place of the module's parameters until the end of the running backward pass.

        Args:
            tensors: by the names of the parameters.
        """

        def end() -> None:
            self._present = self._own
            self._put()

        self._present = tensors
        self._put()
        Variable._execution_engine.queue_callback(end)

    def _put(self) -> None:
        for owner, leaf, name in self._places:
            # As functional_call does, because setattr takes nothing but a Parameter.
            cast(dict[str, Tensor], owner._parameters)[leaf] = self._present[name]
