"""
Which input features bear on a task: tests on transitions whose actions were drawn at random.

A network that learns from noise which comes back unchanged memorises it, and then the magnitude of its weights does not
tell a feature that matters from one that does not. So these tests ask the data, not the network, and before anything is
learnt:

- Does a feature's next value depend on the action, given its present value? Actions that were drawn at random cannot
  depend on anything, so nothing but an effect of the action makes it so: an intervention.
- Does the reward depend on the feature, by a line or a parabola?
- Does the feature help to predict what the first two have found?

The last two are correlations. What is autocorrelated correlates with other autocorrelated things by chance, so they are
compared with what they give for the same series shifted in time. Benjamini and Hochberg's procedure bounds the false
discoveries.

The idea of an intervention is arXiv 2603.18257's; the tests are our own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: So many numbers of observations, and as many of the next ones, are kept for tests, unless 1000 observations have
#: more: 128 MB each in 32 bits.
MOST_NUMBERS = 2**25
_SHIFTS = 20  # shifted series that an autocorrelated one is compared with
_BLOCK = 2**21  # numbers that are tested at a time: 16 MB in 64 bits, and several times that on the way


@dataclass(frozen=True)
class Evidence:
    """
    What the tests say of each feature.

    :param chosen: the features that bear on the task, bool of shape ``(features,)``
    :param p_values: of the hypothesis that a feature does not, float64 of the same shape
    """

    chosen: Tensor
    p_values: Tensor


@dataclass(frozen=True)
class PValues:
    """
    The p-values of each test, float64 of shape ``(features,)``.

    :param responds: of the hypothesis that a feature's next value does not depend on the action
    :param pays: that the reward does not depend on the feature
    :param predicts: that it does not help to predict what the first two have found; 1 for what they have found
    """

    responds: Tensor
    pays: Tensor
    predicts: Tensor

    @property
    def p_values(self) -> Tensor:
        """Of the hypothesis that a feature does not bear on the task: the smallest of the three, times three."""
        least = torch.stack([self.responds, self.pays, self.predicts]).min(0).values
        return (3 * least).clamp(max=1)


def screen(before: Tensor, after: Tensor, actions: Tensor, rewards: Tensor, level: float = 0.01) -> Evidence:
    """
    Test which features bear on a task.

    :param before: observations, of shape ``(transitions, features)``, in the order in which they were made
    :param after: the next observations, of the same shape
    :param actions: actions drawn at random, of shape ``(transitions, action dimensions)``
    :param rewards: of shape ``(transitions,)``
    :param level: the expected fraction of false discoveries, in (0, 1)
    :return: the evidence
    :raises ValueError: if there are too few transitions, or the level is out of range
    """
    p_values = run_tests(before, after, actions, rewards, level).p_values
    return Evidence(benjamini_hochberg(p_values, level), p_values)


def run_tests(before: Tensor, after: Tensor, actions: Tensor, rewards: Tensor, level: float = 0.01) -> PValues:
    """
    Make the three tests of :func:`screen`, which has the same arguments, one by one.

    :param before: observations
    :param after: the next observations
    :param actions: actions drawn at random
    :param rewards: rewards
    :param level: the expected fraction of false discoveries among the features that the third test is about
    :return: the p-values
    :raises ValueError: if there are too few transitions, or the level is out of range
    """
    n, n_features = before.shape
    if not 0 < level < 1:
        raise ValueError(f"The level of false discoveries must lie in (0, 1), not {level}.")
    if n < fewest_transitions(actions.shape[1]):
        raise ValueError(
            f"{n} transitions are too few to test which features bear on the task: collect at least "
            f"{fewest_transitions(actions.shape[1])} with random actions (`learning_starts`)."
        )
    actions = actions.double()
    ranks = _normal_scores(rewards.double())

    def tested(test: Callable[[slice], Tensor]) -> Tensor:
        width = max(1, _BLOCK // n)
        return torch.cat([test(slice(i, i + width)) for i in range(0, n_features, width)])

    responds = tested(lambda block: _response(before[:, block].double(), after[:, block].double(), actions))
    pays = tested(lambda block: _correlation(_powers(after[:, block].double()), ranks[:, None]))
    first = benjamini_hochberg(2 * torch.minimum(responds, pays), level)
    predicts = torch.ones_like(responds)
    if first.any():
        surprise = _surprise(before[:, first].double(), after[:, first].double(), actions)
        predicts = tested(lambda block: _correlation([_standardized(before[:, block].double())], surprise))
        predicts[first] = 1  # what has been found cannot surprise itself
    return PValues(responds, pays, predicts)


def fewest_transitions(action_dimensions: int) -> int:
    """
    Tell how many transitions the tests need.

    :param action_dimensions: the number of action dimensions
    :return: the number of transitions
    """
    return 20 * (action_dimensions + 2)


def benjamini_hochberg(p_values: Tensor, level: float) -> Tensor:
    """
    Choose hypotheses to reject, so that of those rejected a fraction of ``level`` is expected to be true.

    Paper: Benjamini & Hochberg, "Controlling the false discovery rate", 1995.

    :param p_values: of shape ``(hypotheses,)``
    :param level: in (0, 1)
    :return: bool tensor of the same shape
    """
    ordered = p_values.sort()
    bounds = level * torch.arange(1, p_values.numel() + 1, dtype=p_values.dtype) / p_values.numel()
    below = (ordered.values <= bounds).nonzero()
    chosen = torch.zeros_like(p_values, dtype=torch.bool)
    if below.numel():
        chosen[ordered.indices[: int(below.max()) + 1]] = True
    return chosen


def _response(before: Tensor, after: Tensor, actions: Tensor) -> Tensor:
    """Test whether each feature's next value depends on the action, given its present one: F-tests."""
    n, k = actions.shape
    a, x, y = (each - each.mean(0) for each in (actions, before, after))
    own = (x * x).sum(0).clamp_min(1e-300)
    slope, shared = (x * y).sum(0) / own, a.T @ x
    left = (y * y).sum(0) - slope * (x * y).sum(0)  # what the present value does not explain
    effect = (a.T @ y - shared * slope).T
    spread = a.T @ a - shared.T[:, :, None] * shared.T[:, None, :] / own[:, None, None]
    spread += 1e-9 * (a * a).sum() / k * torch.eye(k, dtype=a.dtype)
    explained = (effect[:, None, :] @ torch.linalg.solve(spread, effect[:, :, None])).flatten()
    unexplained = (left - explained).clamp_min(1e-300) / (n - k - 2)
    is_constant = left <= 1e-12 * (y * y).sum(0)
    return torch.where(is_constant, torch.ones_like(left), _upper_tail_of_f(explained / unexplained, k, n - k - 2))


def _surprise(before: Tensor, after: Tensor, actions: Tensor) -> Tensor:
    """Give what features and actions do not tell of these features' next values, without correlations among it."""
    design = torch.cat([torch.ones_like(actions[:, :1]), before, actions], dim=1)
    residual = after - design @ torch.linalg.lstsq(design, after, driver="gelsd").solution
    vectors, sizes, _ = torch.linalg.svd(residual - residual.mean(0), full_matrices=False)
    surprise: Tensor = vectors[:, sizes > 1e-6 * sizes[0]] * len(residual) ** 0.5
    return surprise


def _correlation(powers: Sequence[Tensor], targets: Tensor) -> Tensor:
    """
    Test whether features correlate with any of some targets, which do not correlate with each other.

    The statistic is chi-squared for what is not autocorrelated; else it is larger by chance alone, by a factor that
    targets which are shifted in time show.

    :param powers: the features, or several functions of each, standardized, without correlations between them
    :param targets: standardized, of shape ``(transitions, targets)``
    """
    n, k = targets.shape
    shifts = [round(n * (0.1 + 0.8 * i / (_SHIFTS - 1))) for i in range(_SHIFTS)]
    every = torch.cat([targets.roll(shift, 0) for shift in (0, *shifts)], dim=1)
    degrees = k * len(powers)
    strengths = torch.stack([n * (power.T @ every / n).square() for power in powers]).sum(0)
    strengths = strengths.unflatten(1, (-1, k)).sum(2)
    by_chance = strengths[:, 1:].mean(1) / degrees
    # By how much is an estimate itself, from so many shifts.
    return _upper_tail_of_f(strengths[:, 0] / by_chance.clamp_min(1), degrees, degrees * _SHIFTS)


def _powers(x: Tensor) -> list[Tensor]:
    """Give a line and a parabola of each feature."""
    line = _standardized(x)
    parabola = line * line - 1
    return [line, _standardized(parabola - line * (parabola * line).mean(0))]


def _upper_tail_of_f(statistic: Tensor, degrees: int, below: int) -> Tensor:
    """
    Give the probability that a variable is larger which is ``degrees`` times one of the F-distribution.

    Bartlett's correction makes it a chi-squared one, to within a percent far out in the tail.

    :param statistic: the statistic
    :param degrees: degrees of freedom of the numerator
    :param below: those of the denominator
    """
    corrected = (below + degrees / 2 - 1) * (statistic.clamp_min(0) / below).log1p()
    tail: Tensor = torch.special.gammaincc(torch.full_like(statistic, degrees / 2), corrected / 2)
    return tail


def _standardized(x: Tensor) -> Tensor:
    """Scale columns to mean 0 and deviation 1; constants, whose mean is rounded, become 0."""
    deviations = x.std(0)
    is_constant = deviations <= 1e-12 * x.abs().amax(0)
    return torch.where(is_constant, torch.zeros_like(x), (x - x.mean(0)) / deviations.clamp_min(1e-150))


def _normal_scores(x: Tensor) -> Tensor:
    """Replace numbers by the normal quantiles of their ranks: rewards may have heavy tails, and many may be equal."""
    _, place, counts = x.unique(return_inverse=True, return_counts=True)
    counts = counts.double()
    scores = torch.special.ndtri((counts.cumsum(0) - counts / 2)[place] / len(x))
    return _standardized(scores)
