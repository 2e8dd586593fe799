"""The returns of a run's evaluations, as ``EvalCallback`` of Stable-Baselines3 keeps them, and ours like it."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_rl.inputs import InputError
from sparse_rl.storage import StorageError, load_arrays

MOST_BYTES = 2**26
#: More environment steps than any run has taken, and few enough to calculate with, whatever they are multiplied by.
MOST_STEPS = 10**15
#: More than any return or time; sums and squares of such numbers are still finite.
MOST = 1e100


def read_evaluations(file: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """
    Read a file of evaluations, which a stranger may have made.

    :param file: ``evaluations.npz``
    :return: environment steps, of shape ``(evaluations,)``, rising, and returns, of shape ``(evaluations, episodes)``,
        finite; there is at least one of both
    :raises InputError: if it is damaged, too large or no regular file
    :raises OSError: if it cannot be read
    """
    try:
        arrays = load_arrays(file, MOST_BYTES)
        for name in ("timesteps", "results"):
            if name not in arrays:
                raise ValueError(f"it has no array {name!r}")
        steps = check_steps("timesteps", arrays["timesteps"])
        return steps, _checked_returns(arrays["results"], len(steps))
    except StorageError as error:
        raise InputError(str(error)) from error
    except ValueError as error:
        raise InputError(f"{str(file)!r} is damaged: {error}.") from error


def check_steps(name: str, steps: NDArray[Any]) -> NDArray[np.int64]:
    """
    Check that an array of a stranger's holds the environment steps of something that happened again and again.

    :param name: its name, for the error message
    :param steps: the array
    :return: the steps, of shape ``(n,)``, where ``n`` is at least 1
    :raises ValueError: if they are no whole numbers, do not rise, or are too many; the message has no full stop
    """
    if steps.dtype.kind not in "iu":
        raise ValueError(f"its {name} must be whole numbers, but are of the type {str(steps.dtype)[:40]}")
    if steps.ndim != 1 or not len(steps):
        raise ValueError(f"its {name} must have the shape (n,), with n of at least 1, but have the shape {steps.shape}")
    if (steps[1:] <= steps[:-1]).any() or steps[0] < 0 or steps[-1] > MOST_STEPS:
        raise ValueError(f"its {name} must increase, from 0 or more to at most {MOST_STEPS:,}")
    return steps.astype(np.int64)


def _checked_returns(returns: NDArray[Any], count: int) -> NDArray[np.float64]:
    if returns.dtype.kind not in "fiu":
        raise ValueError(f"its results must be numbers, but are of the type {str(returns.dtype)[:40]}")
    if returns.ndim != 2 or len(returns) != count or not returns.shape[1]:
        raise ValueError(
            f"its results must have the shape ({count}, n): one row for each of its timesteps, with n episodes, at "
            f"least one; they have the shape {returns.shape}"
        )
    with np.errstate(over="ignore"):  # there are longer numbers
        numbers = returns.astype(np.float64)
    if not (abs(numbers) < MOST).all():  # NaN is not below anything
        raise ValueError("its results must be finite numbers, but some are NaN or infinite, or nearly so")
    return numbers
