"""The generators of random numbers that belong to a process, not to an object."""

import random
from typing import Any

import numpy as np
import torch as th


def keep_generators() -> dict[str, Any]:
    """
    Give the states of this process's generators: Python's, NumPy's and PyTorch's.

    :return: plain values and arrays
    """
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_available() else [],
    }


def restore_generators(state: dict[str, Any]) -> None:
    """
    Put this process's generators into a state.

    :param state: what :func:`keep_generators` gave
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    th.set_rng_state(state["torch"])
    if len(state["cuda"]) == th.cuda.device_count():
        th.cuda.set_rng_state_all(state["cuda"])
