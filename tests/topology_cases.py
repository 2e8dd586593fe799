"""Topologies for tests, and how to see that something is drawn uniformly."""

from collections.abc import Callable

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_rl.topology import (
    Topology,
)

quick = settings(max_examples=40, deadline=None)


@st.composite
def topologies(draw: st.DrawFn, largest: int = 12) -> Topology:
    shape = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    active = draw(st.integers(1, shape[0] * shape[1]))
    return Topology.random(shape, active, seeded(draw(st.integers(0, 1000))))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(values: Tensor) -> list[int]:
    return values.view(torch.int32).tolist()


def chi_square(counts: Tensor, draws: int, per_draw: int) -> float:
    """Of how often each of ``n`` items came up, ``per_draw`` distinct ones at a time: chi-square with n - 1 degrees."""
    n = counts.numel()
    p = per_draw / n
    return float(((counts - draws * p) ** 2).sum() / (draws * p * (1 - p)) * (n - 1) / n)


def assert_uniform(draw: Callable[[torch.Generator], Tensor], n: int, per_draw: int, draws: int = 2000) -> None:
    generator = seeded(0)
    counts = torch.zeros(n)
    for _ in range(draws):
        items = draw(generator)
        assert items.unique().numel() == per_draw
        counts[items] += 1
    spread = (2 * (n - 1)) ** 0.5
    assert n - 1 - 3 * spread < chi_square(counts, draws, per_draw) < n - 1 + 4 * spread
