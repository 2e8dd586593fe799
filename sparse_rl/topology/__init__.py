"""Which weights exist, and how that changes: no reinforcement learning, no layers, only indices."""

from sparse_rl.topology.distributions import DISTRIBUTIONS, distribution, erdos_renyi, erk, input_layer, uniform
from sparse_rl.topology.methods import SET, Method, Static
from sparse_rl.topology.rewiring import Rewiring, drop_by_magnitude, grow_at_random, rewire, without
from sparse_rl.topology.schedules import UpdateSchedule
from sparse_rl.topology.topology import Topology

__all__ = [
    "DISTRIBUTIONS",
    "SET",
    "Method",
    "Rewiring",
    "Static",
    "Topology",
    "UpdateSchedule",
    "distribution",
    "drop_by_magnitude",
    "erdos_renyi",
    "erk",
    "grow_at_random",
    "input_layer",
    "rewire",
    "uniform",
    "without",
]
