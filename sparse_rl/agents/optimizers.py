"""Adam without its overhead: the same steps on the same state, in one compiled call."""

from collections.abc import Sequence

import numpy as np
import torch as th

from sparse_rl.kernels import LIKE, follow_torch
from sparse_rl.kernels.adam import VECTOR, adam
from sparse_rl.nn import Stack


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
        self._seen: list[object] = []

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

    @property
    def _parameters(self) -> list[th.Tensor]:
        return [p for stack in self.stacks for p in stack.parameters]

    def _is_plain(self) -> bool:
        optimizer = self._optimizer
        if type(optimizer) is not th.optim.Adam or len(optimizer.param_groups) != 1:
            return False
        group = optimizer.param_groups[0]
        special = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")
        hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
        parameters = self._parameters
        return (
            not any(group.get(name) for name in special)
            and not any(hooks)
            and not isinstance(group["lr"], th.Tensor)
            and len(group["params"]) == len(parameters)
            and all(p.requires_grad for p in parameters)
        )

    def _look(self) -> list[object]:
        """Tell by what state and parameters are known: where all of them lie."""
        state = self._optimizer.state
        seen: list[object] = [stack.version for stack in self.stacks]
        for p in self._parameters:
            mine = state.get(p)
            seen.append(mine and tuple(mine[name].data_ptr() for name in ("step", "exp_avg", "exp_avg_sq")))
        return seen

    def _is_joined(self) -> bool:
        """Tell whether state and parameters are where they were at the last step, and all at the same step."""
        return bool(self._seen) and self._look() == self._seen and bool((self._steps == self._steps[0]).all())

    def _join(self) -> bool:
        """Make the state views of common tensors; tell whether all parameters are at the same step."""
        self._seen = []
        state, parameters = self._optimizer.state, self._parameters
        if {id(p) for p in self._optimizer.param_groups[0]["params"]} != {id(p) for p in parameters}:
            return False
        counts = {float(state[p]["step"]) if state.get(p) else 0.0 for p in parameters}
        if len(counts) != 1:
            return False
        steps = th.full((len(parameters),), counts.pop())
        self._steps, self._vectors = steps.numpy(), np.zeros(len(self.stacks), VECTOR)
        self._kept: list[object] = [steps]
        self._like = LIKE[self.stacks[0].tensor.dtype]
        each_step = iter(steps)
        for record, stack in zip(self._vectors, self.stacks, strict=True):
            record["values"], record["gradient"] = stack.tensor.data_ptr(), stack.gradient.data_ptr()
            record["size"] = stack.tensor.numel()
            sizes = [p.numel() for p in stack.parameters]
            for name in ("exp_avg", "exp_avg_sq"):
                moment = th.zeros_like(stack.tensor)
                for p, part in zip(stack.parameters, moment.split(sizes), strict=True):
                    view = part.view(p.shape)
                    if name in state[p]:
                        view.copy_(state[p][name])
                    state[p][name] = view
                record[name] = moment.data_ptr()
                self._kept += [moment, stack.tensor, stack.gradient]
            for p in stack.parameters:
                state[p]["step"] = next(each_step)
        self._seen = self._look()
        return True
