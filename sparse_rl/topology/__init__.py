"""
Which weights exist, and how that changes: only indices, no layers and no agents.

One module, :mod:`~sparse_rl.topology.evidence`, tests which inputs of transitions bear on a task: tensors in, p-values
out, and nothing that knows an environment or an algorithm.
"""

from sparse_rl.topology.distributions import (
    DISTRIBUTIONS,
    distribution,
    erdos_renyi,
    erdos_renyi_by_lambda,
    erk,
    input_layer,
    uniform,
)
from sparse_rl.topology.evidence import Evidence, PValues, benjamini_hochberg, fewest_transitions, run_tests, screen
from sparse_rl.topology.gradients import WeightGradient, grow_by_gradient
from sparse_rl.topology.methods import (
    SET,
    GradualPruning,
    Method,
    NeuroplasticExpansion,
    RigL,
    SignedSET,
    Static,
)
from sparse_rl.topology.rewiring import Rewiring, drop_by_magnitude, drop_by_sign, grow_at_random, rewire, without
from sparse_rl.topology.schedules import Budget, BudgetSchedule, UpdateSchedule
from sparse_rl.topology.topology import Topology, sample_distinct

__all__ = [
    "DISTRIBUTIONS",
    "SET",
    "Budget",
    "BudgetSchedule",
    "Evidence",
    "GradualPruning",
    "Method",
    "NeuroplasticExpansion",
    "PValues",
    "Rewiring",
    "RigL",
    "SignedSET",
    "Static",
    "Topology",
    "UpdateSchedule",
    "WeightGradient",
    "benjamini_hochberg",
    "distribution",
    "drop_by_magnitude",
    "drop_by_sign",
    "erdos_renyi",
    "erdos_renyi_by_lambda",
    "erk",
    "fewest_transitions",
    "grow_at_random",
    "grow_by_gradient",
    "input_layer",
    "rewire",
    "run_tests",
    "sample_distinct",
    "screen",
    "uniform",
    "without",
]
