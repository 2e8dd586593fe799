"""Catch the gradients of sparse layers from whatever trains them, without a dense matrix."""

from collections.abc import Mapping
from typing import Any

import torch as th
from torch import nn
from torch.utils.hooks import RemovableHandle

from sparse_rl.nn import SparseLinear
from sparse_rl.topology import WeightGradient


class GradientCatcher:
    """
    Keep the first gradient that each layer gets: what it read, and the gradient of what it gave.

    It is the first, because a layer may get several. In a gradient step of SAC or TD3 the critics get that of their own
    loss, and then that of the actor's loss, which flows through them and must not count. Nor do gradients count that
    will be differentiated again: TRPO's first one is of a divergence, and zero.

    As long as a layer is watched it has a hook, so our fast learners leave training to Stable-Baselines3.

    :param layers: the layers to watch, by name
    """

    def __init__(self, layers: Mapping[str, SparseLinear]) -> None:
        self._layers = dict(layers)
        self._handles: list[RemovableHandle] = []
        #: The gradients that were caught, by name.
        self.caught: dict[str, WeightGradient] = {}

    @property
    def missing(self) -> list[str]:
        """The names of the layers that have not got a gradient yet."""
        return [name for name in self._layers if name not in self.caught]

    def watch(self) -> None:
        """Watch the layers that have not got a gradient yet, until :meth:`release`."""
        self.release()
        for name in self.missing:
            self._handles.append(self._layers[name].register_forward_hook(self._make_hook(name)))

    def release(self) -> None:
        """Remove all hooks; what was caught stays."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _make_hook(self, name: str) -> Any:
        def look(layer: nn.Module, inputs: tuple[th.Tensor, ...], output: th.Tensor) -> None:
            if output.requires_grad and name not in self.caught:
                blocks = [block.detach() for block in inputs]

                def keep(d_output: th.Tensor) -> None:
                    if name not in self.caught and not th.is_grad_enabled():
                        self.caught[name] = WeightGradient(th.cat(blocks, dim=1), d_output.detach().clone())

                output.register_hook(keep)

        return look
