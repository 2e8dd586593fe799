"""
A sparse layer of your own, and a policy that is made of it.

    python train.py --algo anf-examples.own_layer:GainSAC --env HalfCheetah-noise98
"""

from typing import Any, ClassVar

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from sparse_rl.nn import SparseLinear
from sparse_rl.sb3 import SparseSACPolicy


class GainLinear(SparseLinear):
    """A sparse layer, each neuron of which has a gain, which is learnt."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_features))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the layer to one or several blocks of features, as a critic does, of shape ``(batch, width)`` each."""
        return self.gain * super().forward(*inputs)


class GainPolicy(SparseSACPolicy):
    """SAC's policy with these layers wherever a layer is sparse."""

    layer_class = GainLinear


class GainSAC(SAC):
    """For ``train.py``, which takes the policy from the learner."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": GainPolicy}
