"""How far a topology has moved."""

from collections.abc import Mapping

import torch

from sparse_rl.topology import Topology


def topology_overlap(before: Mapping[str, Topology], after: Mapping[str, Topology]) -> float:
    """
    Give the fraction of connections that are still there.

    1 means that no connection was lost; a fresh random topology has, on average, its density as overlap.

    :param before: earlier topologies of a network's sparse layers, by name
    :param after: later ones of the same layers
    :return: the fraction of the active positions of ``before``, in all layers together, that are active in ``after``
    :raises ValueError: if these are not the same layers, or have no connection
    """
    if before.keys() != after.keys() or any(before[name].shape != after[name].shape for name in before):
        raise ValueError(f"The topologies of {_describe(before)} cannot be compared with those of {_describe(after)}.")
    total = sum(topology.active for topology in before.values())
    if not total:
        raise ValueError("Without a connection there is no overlap.")
    shared = sum(
        int(torch.isin(before[name].positions, after[name].positions, assume_unique=True).sum()) for name in before
    )
    return shared / total


def _describe(topologies: Mapping[str, Topology]) -> str:
    return ", ".join(f"{name} {topology.shape}" for name, topology in topologies.items()) or "no layer"
