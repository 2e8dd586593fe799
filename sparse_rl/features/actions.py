"""How much each feature has to do with what an agent does, seen on observations that it made."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from sparse_rl.features.statistics import total_effect
from sparse_rl.metrics import passages
from sparse_rl.nn import SparseLinear
from sparse_rl.sb3.networks import input_layers


def input_layer(policy: BasePolicy) -> SparseLinear | nn.Linear:
    """
    Find the layer by which the network that acts sees.

    :param policy: a policy of Stable-Baselines3 or sb3-contrib
    :return: the layer
    :raises ValueError: if the network sees something else than the observation's entries
    """
    layer = next(iter(input_layers(policy).values()))
    shape = policy.observation_space.shape or ()
    if len(shape) != 1 or layer.in_features != shape[0]:
        raise ValueError(
            f"The agent's first linear layer has {layer.in_features} inputs, and its observations have the shape "
            f"{shape}: expected flat observations that go into it as they are, without images, dictionaries, or a "
            "features extractor of another kind."
        )
    return layer


def action_changes(
    policy: BasePolicy, observations: Tensor, seed: int = 0, tell: Callable[[int], object] = lambda done: None
) -> NDArray[np.float64]:
    """
    Shuffle each feature among observations, one after the other, and see how much the greedy actions change.

    Of the input layer only what one feature contributes is computed anew, an update of rank one; a feature without
    connections has exactly no effect. All features are shuffled in the same way: where one stands does not matter.

    :param policy: a policy of Stable-Baselines3 or sb3-contrib that sees flat observations
    :param observations: of shape ``(observations, features)``, as the policy takes them (normalised, if it is used to
        that), on its device
    :param seed: of the shuffling
    :param tell: is told after each feature how many are done
    :return: of each feature the share of the actions' variance, see
        :func:`~sparse_rl.features.statistics.total_effect`; of discrete actions, that of their indicators
    :raises ValueError: if the policy sees something else, or there are fewer than two observations
    """
    layer, n = input_layer(policy), len(observations)
    if n < 2:
        raise ValueError(f"Expected two observations or more among which to shuffle features, not {n}.")
    chosen: list[Tensor] = []
    # What squashes its actions gives them in [-1, 1]; predict() scales them afterwards.
    space = spaces.Box(-1, 1, policy.action_space.shape) if policy.squash_output else policy.action_space

    def act() -> Tensor:
        return as_numbers(policy._predict(observations, deterministic=True), space)

    with torch.no_grad(), _evaluating(policy):
        (seen,) = passages(layer, lambda: chosen.append(act()))
        moved = seen.inputs[_cycle(n, seed).to(seen.inputs.device)] - seen.inputs
        weight = layer.dense_weight() if isinstance(layer, SparseLinear) else layer.weight
        effects = np.zeros(layer.in_features)
        with _output_of(layer) as put:
            for j in range(layer.in_features):
                if weight[:, j].any():
                    put(seen.outputs + moved[:, j, None] * weight[:, j])
                    effects[j] = total_effect(chosen[0], act())
                tell(j + 1)
    return effects


def as_numbers(actions: Tensor, space: spaces.Space[object]) -> Tensor:
    """
    Turn actions into vectors that can be compared: scaled to their bounds; discrete ones by indicators.

    :param actions: actions as a policy gives them, of shape ``(batch, ...)``
    :param space: the action space
    :return: float tensor of shape ``(batch, dimensions)``
    :raises ValueError: if there is no such form of them
    """
    flat = actions.reshape(len(actions), -1)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        sizes = np.atleast_1d(space.n if isinstance(space, spaces.Discrete) else space.nvec.ravel())
        start = int(space.start) if isinstance(space, spaces.Discrete) else 0
        parts = [nn.functional.one_hot(flat[:, i].long() - start, int(n)) for i, n in enumerate(sizes)]
        return torch.cat(parts, dim=1).float()
    if isinstance(space, spaces.Box):
        low, high = (torch.as_tensor(bound.ravel(), device=flat.device).float() for bound in (space.low, space.high))
        bounded = (high - low).where((high - low).isfinite(), 1.0)
        return flat.float().clamp(low, high) / bounded.where(bounded > 0, 1.0)
    if isinstance(space, spaces.MultiBinary):
        return flat.float()
    raise ValueError(f"Expected actions that are numbers or choices, not {space}.")


@contextmanager
def _evaluating(policy: BasePolicy) -> Iterator[None]:
    was_training = policy.training
    policy.set_training_mode(False)
    try:
        yield
    finally:
        policy.set_training_mode(was_training)


def _cycle(n: int, seed: int) -> Tensor:
    """Draw an order in which nothing stays where it is: one cycle through all."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    result = torch.empty_like(order)
    result[order] = order.roll(1)
    return result


@contextmanager
def _output_of(layer: nn.Module) -> Iterator[Callable[[Tensor], None]]:
    """Let a layer give what one puts there, instead of computing it."""
    output: list[Tensor] = []

    def put(value: Tensor) -> None:
        output[:] = [value]

    layer.forward = lambda *inputs: output[0]
    try:
        yield put
    finally:
        del layer.forward
