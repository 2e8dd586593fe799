"""Adam without its overhead: the same steps on the same state, in one compiled call."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

from sparse_rl.kernels import follow_torch
from sparse_rl.kernels.adam import VECTOR, adam
from sparse_rl.nn import Stack

_LIKE: dict[th.dtype, Any] = {th.float32: np.empty(0, np.float32), th.float64: np.empty(0, np.float64)}


class FastAdam:
    """
    Take the steps of a ``torch.optim.Adam``, whose state stays where it is and what it is.

    ``optimizer.state`` holds views of common tensors, under the usual names: it can be saved, loaded, rewired, and the
    optimizer's own ``step()`` may be called in between. An optimizer that is not a plain Adam over exactly these
    parameters takes its own steps.

    :param optimizer: the optimizer
    :param stacks: the parameters
    """

    def __init__(self, optimizer: th.optim.Optimizer, stacks: Sequence[Stack]) -> None:
        self._optimizer, self.stacks = optimizer, stacks
        self._parameters = [p for stack in stacks for p in stack.parameters]
        self._state: list[dict[str, Any]] = []

    def step(self) -> None:
        """Take a step with the gradients that are in the stacks."""
        if not self._is_plain():
            self._optimizer.step()
            return
        if not self._is_joined() and not self._join():
            self._optimizer.step()
            return
        group = self._optimizer.param_groups[0]
        follow_torch()
        beta_1, beta_2 = group["betas"]
        adam(
            self._vectors, self._steps, group["lr"], beta_1, beta_2, group["eps"], group["weight_decay"], self._like
        )  # fmt: skip

    def _is_plain(self) -> bool:
        optimizer = self._optimizer
        if type(optimizer) is not th.optim.Adam or len(optimizer.param_groups) != 1:
            return False
        group = optimizer.param_groups[0]
        special = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")
        return (
            not any(group.get(name) for name in special)
            and not isinstance(group["lr"], th.Tensor)
            and len(group["params"]) == len(self._parameters)
            and all(p.requires_grad for p in self._parameters)
        )

    def _is_joined(self) -> bool:
        """Tell whether state and parameters are where they were at the last step."""
        state = self._optimizer.state
        return (
            bool(self._state)
            and all(state.get(p) is mine for p, mine in zip(self._parameters, self._state, strict=True))
            and all(mine["exp_avg"] is view for mine, view in zip(self._state, self._views, strict=True))
            and [stack.tensor.data_ptr() for stack in self.stacks] == self._addresses
        )

    def _join(self) -> bool:
        """Make the state views of common tensors; tell whether all parameters are at the same step."""
        state = self._optimizer.state
        if {id(p) for p in self._optimizer.param_groups[0]["params"]} != {id(p) for p in self._parameters}:
            return False
        counts = {float(state[p]["step"]) if state.get(p) else 0.0 for p in self._parameters}
        if len(counts) != 1:
            return False
        steps = th.full((len(self._parameters),), counts.pop())
        self._vectors, self._steps = np.zeros(len(self.stacks), VECTOR), steps.numpy()
        self._state, self._views, self._kept = [], [], []
        self._addresses = [stack.tensor.data_ptr() for stack in self.stacks]
        self._like = _LIKE[self.stacks[0].tensor.dtype]
        for record, stack in zip(self._vectors, self.stacks, strict=True):
            moments = {name: th.zeros_like(stack.tensor) for name in ("exp_avg", "exp_avg_sq")}
            sizes = [p.numel() for p in stack.parameters]
            for index, p in enumerate(stack.parameters):
                mine = state[p]
                for name, moment in moments.items():
                    view = moment.split(sizes)[index].view_as(p)
                    if name in mine:
                        view.copy_(mine[name])
                    mine[name] = view
                mine["step"] = steps[len(self._state)]
                self._state.append(mine)
                self._views.append(mine["exp_avg"])
            record["values"], record["gradient"] = stack.tensor.data_ptr(), stack.gradient.data_ptr()
            record["size"] = stack.tensor.numel()
            for name, moment in moments.items():
                record[name] = moment.data_ptr()
            self._kept.append(moments)
        return True
