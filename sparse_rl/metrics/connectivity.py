"""Which inputs a layer looks at: the measure by which Automatic Noise Filtering is judged."""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sparse_rl.nn import SparseLinear


def connections_per_feature(layer: SparseLinear | nn.Linear) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """
    Count the active weights that leave each input feature, and add up their magnitudes.

    Every active weight counts, also one that has just been grown and is still zero. (The authors' ANF code counts
    non-zero weights.) The second figure is the neuron strength of QuickSelection (Atashgahi et al. 2021).

    :param layer: a layer, sparse or dense
    :return: ``(counts, strengths)``, each of shape ``(in_features,)``
    """
    if isinstance(layer, nn.Linear):
        counts = np.full(layer.in_features, layer.out_features, dtype=np.int64)
        return counts, layer.weight.detach().abs().sum(0).cpu().numpy().astype(np.float32)
    columns = layer.columns.cpu().numpy()
    magnitudes = layer.values.detach().abs().cpu().numpy()
    counts = np.bincount(columns, minlength=layer.in_features).astype(np.int64)
    return counts, np.bincount(columns, magnitudes, minlength=layer.in_features).astype(np.float32)
