"""Which inputs of a network are real features, which are noise, and which are actions."""

import numpy as np
from numpy.typing import NDArray


def groups_of(real: NDArray[np.bool_], inputs: int) -> dict[str, NDArray[np.bool_]]:
    """
    Tell inputs apart: those of the observation come first, then, in critics of continuous actions, actions.

    :param real: which entries of the observation are real, of shape ``(..., observation)``
    :param inputs: how many inputs there are
    :return: for ``"real"``, ``"noise"`` and ``"action"`` which inputs belong to it, of shape ``(..., inputs)``
    """
    observed = np.zeros((*real.shape[:-1], inputs), dtype=bool)
    observed[..., : real.shape[-1]] = True
    is_real = np.zeros_like(observed)
    is_real[..., : real.shape[-1]] = real
    return {"real": is_real, "noise": observed & ~is_real, "action": ~observed}
