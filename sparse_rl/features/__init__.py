"""
Which of an agent's inputs matter: by how it is wired, by what it does without them, and by what the environment says.

:func:`rank_features` does all of it; the statistics are in :mod:`sparse_rl.features.statistics`.
"""

from sparse_rl.features.actions import action_changes
from sparse_rl.features.files import as_csv, save_ranking
from sparse_rl.features.measuring import rank_features
from sparse_rl.features.picture import ranking_picture
from sparse_rl.features.ranking import (
    METHODS,
    Ablation,
    Agreement,
    Confirmation,
    Connections,
    FeatureRanking,
    Intervention,
)
from sparse_rl.features.statistics import area_under_curve, precision_and_recall, sign_flip_test, total_effect

__all__ = [
    "METHODS",
    "Ablation",
    "Agreement",
    "Confirmation",
    "Connections",
    "FeatureRanking",
    "Intervention",
    "action_changes",
    "area_under_curve",
    "as_csv",
    "precision_and_recall",
    "rank_features",
    "ranking_picture",
    "save_ranking",
    "sign_flip_test",
    "total_effect",
]
