"""Adam for weights that are not all of the same age."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from sparse_rl.names import unknown
from sparse_rl.nn.sparse_linear import density_of

WARM_UPS = ("momentum", "update")


class SMETAdam(torch.optim.Optimizer):
    """
    Adam that knows the age of each weight of a sparse layer (SMET, Xiao et al. 2026, arXiv 2606.00888).

    Plain Adam corrects the bias of its moments by one step count for a whole parameter. A newly grown weight, whose
    moments start from zero, is taken for an old one: with ``betas=(0.9, 0.999)`` its first step is 3.16 times the
    learning rate, its twelfth 6.57 times. Here each weight has a count of its own, which starts when it is grown, and
    a weight takes smaller steps while it is young. Besides, a sparse layer's learning rate is multiplied by
    ``density ** -density_exponent``, where only the features count that the layer is connected to.

    What is sparse is told by :func:`~sparse_rl.nn.density_of`; other parameters are of one age, and so are treated
    alike, the warm-up included. With ``warmup_steps=0`` and ``density_exponent=0``, and as long as nothing is rewired,
    this is ``torch.optim.Adam`` up to rounding.

    The state of a parameter is Adam's (``step``, ``exp_avg``, ``exp_avg_sq``), and for the values of a sparse layer
    also ``ages``, of one entry per weight. :func:`~sparse_rl.nn.rewire_layer` carries all of it. State that was saved
    by ``torch.optim.Adam`` can be loaded: all weights are then as old as their layer.

    :param params: parameters, or groups of them
    :param lr: learning rate
    :param betas: how much the moments keep at each step, each in [0, 1)
    :param eps: added to the root of the second moment
    :param weight_decay: factor of the weights that is added to the gradients
    :param warmup_steps: the age at which a weight takes full steps; 0 or 1 for no warm-up
    :param warmup: what is multiplied by ``min(age / warmup_steps, 1)``: ``"momentum"``, the first moment itself, so
        that the factors of successive steps compound, as in the authors' code; or ``"update"``, the step that is taken
        (a linear warm-up of the learning rate)
    :param density_exponent: 1 as in the authors' scripts; descriptions of the paper also have 0.5; 0 for one learning
        rate for all layers
    :raises ValueError: if an argument is out of range
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 100,
        warmup: str = "momentum",
        density_exponent: float = 1.0,
    ) -> None:
        at_least_zero = {
            "lr": lr,
            "eps": eps,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
            "density_exponent": density_exponent,
        }
        for name, value in at_least_zero.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be a number of at least 0, not {value}.")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), not {betas}.")
        if warmup not in WARM_UPS:
            raise ValueError(unknown("warmup", warmup, WARM_UPS))
        super().__init__(params, {**at_least_zero, "betas": tuple(betas), "warmup": warmup})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # those of another optimizer lack some options
            for name, default in self.defaults.items():
                group.setdefault(name, default)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """
        Take a step with the gradients that the parameters have; those without one stay as they are.

        :param closure: computes the loss, and the gradients, again
        :return: the loss that ``closure`` gave
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        density = density_of(parameter)
        state = self._state_of(parameter, is_sparse=density is not None)
        state["step"] += 1
        # The age of each weight, or one for all of them: what follows is the same.
        ages = state["step"]
        if density is not None:
            ages = state["ages"]
            ages += 1
        beta_1, beta_2 = group["betas"]
        first, second = state["exp_avg"], state["exp_avg_sq"]
        if group["weight_decay"] != 0:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        first.lerp_(gradient, 1 - beta_1)
        second.mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)
        corrected = first / _bias(beta_1, ages, parameter.dtype)
        if group["warmup_steps"] > 1:
            warmth = (ages / group["warmup_steps"]).clamp_(max=1)
            corrected *= warmth
            if group["warmup"] == "momentum":
                first *= warmth
        denominator = (second / _bias(beta_2, ages, parameter.dtype)).sqrt_().add_(group["eps"])
        learning_rate = group["lr"]
        if density is not None:
            learning_rate = learning_rate * density ** -group["density_exponent"]
        parameter.addcdiv_(corrected, denominator, value=-learning_rate)

    def _state_of(self, parameter: Tensor, is_sparse: bool) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        if is_sparse and "ages" not in state:
            # Not whole numbers, as Adam's `step` is none: load_state_dict() turns all of a float parameter's state
            # into floats.
            state["ages"] = torch.full_like(parameter, float(state["step"]))
        return state


def _bias(beta: float, ages: Tensor, dtype: torch.dtype) -> Tensor:
    """Give ``1 - beta ** age``: what share of the weight of a moving average lies on the steps that there were."""
    # In double precision: a young weight's is the small difference of two numbers near 1.
    return (1 - beta ** ages.double()).to(dtype)
