"""Optimizers and target networks without their overhead: the same steps on the same state, in one compiled call."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch as th
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from sparse_rl.kernels import LIKE, follow_torch
from sparse_rl.kernels.updates import FOLLOWING, TRAINED, adam, follow
from sparse_rl.nn import FeatureMajorMLP, Stack

_STATE = ("step", "exp_avg", "exp_avg_sq")
_SPECIAL = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")


class FastAdam:
    """
    Take the steps of a ``torch.optim.Adam``, whose state stays where it is and what it is.

    ``optimizer.state`` holds views of common tensors, under the usual names, of zeros before the first step: it can be
    saved, loaded, rewired, and the optimizer's own ``step()`` may be called in between. An optimizer that is not a
    plain Adam over exactly these parameters takes its own steps.

    :param optimizer: the optimizer
    :param stacks: the parameters
    """

    def __init__(self, optimizer: th.optim.Optimizer, stacks: Sequence[Stack]) -> None:
        self._optimizer, self.stacks = optimizer, stacks
        self._seen: object = None
        self._settings: tuple[float, ...] | None = None
        self._is_steady = False

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Look once at optimizer and parameters, which nobody else changes meanwhile, and not again at each step."""
        self._look_at_optimizer()
        self._is_steady = True
        try:
            yield
        finally:
            self._is_steady = False

    @property
    def is_plain(self) -> bool:
        """Whether the steps are this class's, which moves no parameter elsewhere; see :meth:`steady`."""
        return self._settings is not None

    def step(self) -> None:
        """Take a step with the gradients that are in the stacks."""
        if not self._is_steady:
            self._look_at_optimizer()
        if self._settings is None:
            for stack in self.stacks:
                stack.show_gradient()
            self._optimizer.step()
            for stack in self.stacks:
                stack.follow(stack.parameters)  # it may have moved them
            return
        adam(self._vectors, self._steps, *self._settings, follow_torch(), self._like)

    def _look_at_optimizer(self) -> None:
        """Find its settings, if it is one whose steps are known."""
        self._settings = None
        self._parameters = [p for stack in self.stacks for p in stack.parameters]
        if self._is_plain() and (self._is_joined() or self._join()):
            group = self._optimizer.param_groups[0]
            settings = (group["lr"], *group["betas"], group["eps"], group["weight_decay"])
            self._settings = tuple(map(float, settings))

    def _is_plain(self) -> bool:
        optimizer = self._optimizer
        if type(optimizer) is not th.optim.Adam or len(optimizer.param_groups) != 1:
            return False
        group = optimizer.param_groups[0]
        hooks = (
            optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks,
            _global_optimizer_pre_hooks, _global_optimizer_post_hooks,
        )  # fmt: skip
        return (
            not any(group.get(name) for name in _SPECIAL)
            and not any(hooks)
            and "step" not in vars(optimizer)  # somebody has wrapped it
            and not isinstance(group["lr"], th.Tensor)
            and len(group["params"]) == len(self._parameters)
            and all(p.requires_grad for p in self._parameters)
        )

    def _look(self) -> object:
        """Tell by what state and parameters are known: where all of them lie."""
        # By ids, because parameters are slow to hash; the states are kept, so that no other takes the id of one.
        states = list(self._optimizer.state.values())
        return (
            [stack.version for stack in self.stacks],
            [id(state) for state in states],
            [state[name].data_ptr() for state in states if state for name in _STATE],
        )

    def _is_joined(self) -> bool:
        """Tell whether state and parameters are where they were at the last step, and all at the same step."""
        return self._seen is not None and self._look() == self._seen and len(set(self._steps.tolist())) == 1

    def _join(self) -> bool:
        """Make the state views of common tensors; tell whether all parameters are at the same step."""
        self._seen = None
        state, parameters = self._optimizer.state, self._parameters
        if {id(p) for p in self._optimizer.param_groups[0]["params"]} != {id(p) for p in parameters}:
            return False
        counts = {float(state[p]["step"]) if state.get(p) else 0.0 for p in parameters}
        if len(counts) != 1:
            return False
        steps = th.full((len(parameters),), counts.pop())
        self._steps, self._vectors = steps.numpy(), np.zeros(len(self.stacks), TRAINED)
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
        self._kept += state.values()
        self._seen = self._look()
        return True


class Following:
    """
    Let target networks follow (Polyak averaging).

    :param targets: the target networks
    :param networks: the networks that they follow
    """

    def __init__(self, targets: FeatureMajorMLP, networks: FeatureMajorMLP) -> None:
        self._pairs = list(zip(targets.stacks, networks.stacks, strict=True))
        self._like = LIKE[targets.dtype]
        self._seen: list[int] = []

    def step(self, tau: float) -> None:
        """
        Move the targets a little towards the networks.

        :param tau: how far, in [0, 1]
        """
        seen = [stack.version for pair in self._pairs for stack in pair]
        if seen != self._seen:
            for followers, followed in self._pairs:
                if [p.shape for p in followers.parameters] != [p.shape for p in followed.parameters]:
                    raise ValueError(
                        "A target network has other shapes than the network that it follows: rewire both, see "
                        "`sparse_rl.nn.rewire_layer`."
                    )
            rows = [(a.tensor.data_ptr(), b.tensor.data_ptr(), a.tensor.numel()) for a, b in self._pairs]
            self._vectors, self._seen = np.array(rows, FOLLOWING), seen
        follow(self._vectors, tau, follow_torch(), self._like)
