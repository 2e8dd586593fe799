"""What a sparse network costs, what it looks at, and how alive it is: docs/metrics.md defines each figure."""

from sparse_rl.metrics.activity import (
    Passage,
    dormant_ratio,
    effective_rank,
    hidden_activations,
    passages,
    srank,
)
from sparse_rl.metrics.connectivity import connections_per_feature
from sparse_rl.metrics.counts import (
    count_dense_weights,
    count_weights,
    inference_flops,
    linear_layers,
    training_flops,
    weights_of,
)
from sparse_rl.metrics.gradients import gradient_signal_to_noise, loss_change_allocation
from sparse_rl.metrics.learning_curve import learning_curve_area
from sparse_rl.metrics.overlap import topology_overlap

__all__ = [
    "Passage",
    "connections_per_feature",
    "count_dense_weights",
    "count_weights",
    "dormant_ratio",
    "effective_rank",
    "gradient_signal_to_noise",
    "hidden_activations",
    "inference_flops",
    "learning_curve_area",
    "linear_layers",
    "loss_change_allocation",
    "passages",
    "srank",
    "topology_overlap",
    "training_flops",
    "weights_of",
]
