"""The arithmetic of rankings: how much an action varies with a feature, whether a return falls, how good a list is."""

from itertools import product

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_MOST_EXACT = 14  # differences whose signs are flipped in all ways: 16,384 of them
_FLIPS = 2**14  # drawn at random, if there are more differences


def total_effect(actions: Tensor, changed: Tensor) -> float:
    """
    Give the share of the actions' variance that comes and goes with what was changed: Sobol's total-effect index.

    It is estimated as ``E |a - a'|^2 / (2 Var a)`` (Jansen, "Analysis of variance designs for model output", 1999). 0:
    nothing happens; 1, if features are independent: nothing else decides. If they are not, a change makes observations
    that never were, and the index may be larger than 1.

    :param actions: actions as numbers, of shape ``(observations, dimensions)``
    :param changed: the same after a feature's values have been shuffled among the observations
    :return: the index; if all actions are equal, 0 if they remain so, else 1

    >>> import torch
    >>> total_effect(torch.tensor([[0.0], [2.0]]), torch.tensor([[2.0], [2.0]]))
    1.0
    """
    change = float((actions - changed).double().square().sum(1).mean())
    variance = float(actions.double().var(0, correction=0).sum())
    return change / (2 * variance) if variance > 0 else float(change > 0)


def sign_flip_test(differences: NDArray[np.float64], seed: int = 0) -> float:
    """
    Test whether the mean of paired differences is above zero, with nothing assumed but symmetry around zero if not.

    Exact for up to 14 differences, so the least p-value of ``n`` is ``2**-n``; with more, signs are drawn at random.

    :param differences: of shape ``(pairs,)``
    :param seed: of the signs, if they are drawn
    :return: the p-value, one-sided: how often random signs make the mean at least as large

    >>> sign_flip_test(np.array([1.0, 2.0, 3.0]))
    0.125
    """
    n = len(differences)
    if n <= _MOST_EXACT:
        signs = np.array(list(product((1.0, -1.0), repeat=n)))
    else:
        signs = np.random.default_rng(seed).choice((1.0, -1.0), size=(_FLIPS, n))
        signs[0] = 1  # the signs as they are belong to it: or else the p-value could be 0
    sums = signs @ differences
    rounding = 1e-12 * np.abs(differences).sum()
    return float((sums >= differences.sum() - rounding).mean())


def least_p_value(n: int) -> float:
    """
    Tell what :func:`sign_flip_test` can give at least.

    :param n: number of pairs
    :return: the p-value

    >>> least_p_value(3)
    0.125
    """
    return 2.0**-n if n <= _MOST_EXACT else 1 / _FLIPS


def area_under_curve(scores: NDArray[np.float64], real: NDArray[np.bool_]) -> float:
    """
    Give the probability that a real feature scores higher than another one; ties count half (ROC AUC).

    :param scores: of shape ``(features,)``
    :param real: which features are real; some are, and some are not
    :return: 1 if the ranking separates them, 0.5 if it is as good as chance

    >>> area_under_curve(np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False]))
    0.625
    """
    others = np.sort(scores[~real])
    below, up_to = (np.searchsorted(others, scores[real], side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(others)))


def precision_and_recall(chosen: NDArray[np.bool_], real: NDArray[np.bool_]) -> tuple[float, float]:
    """
    Compare a list of features with the real ones.

    :param chosen: which features are on the list
    :param real: which are real
    :return: the share of the chosen that is real (1 if none is chosen), and the share of the real that is chosen

    >>> precision_and_recall(np.array([True, True, False]), np.array([True, False, False]))
    (0.5, 1.0)
    """
    hits = int((chosen & real).sum())
    return hits / max(int(chosen.sum()), 1) if chosen.any() else 1.0, hits / int(real.sum())


def ranks(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """
    Number features by their scores, the highest first; equal ones share the first of their places.

    :param scores: of shape ``(features,)``
    :return: numbers from 1

    >>> ranks(np.array([0.5, 2.0, 0.5, 1.0])).tolist()
    [3, 1, 3, 2]
    """
    ordered = np.sort(-scores)
    return np.searchsorted(ordered, -scores, "left").astype(np.int64) + 1
