"""Layers that store only their active weights."""

from sparse_rl.nn.checking import check_state
from sparse_rl.nn.levels import Stack
from sparse_rl.nn.mlp import FeatureMajorMLP
from sparse_rl.nn.rewiring import rewire_layer
from sparse_rl.nn.smet_adam import SMETAdam
from sparse_rl.nn.sparse_linear import SparseLinear, density_of
from sparse_rl.nn.sparsify import make_sparse, shapes_of, share_out, sparse_layers, sparsify

__all__ = [
    "FeatureMajorMLP",
    "SMETAdam",
    "SparseLinear",
    "Stack",
    "check_state",
    "density_of",
    "make_sparse",
    "rewire_layer",
    "shapes_of",
    "share_out",
    "sparse_layers",
    "sparsify",
]
