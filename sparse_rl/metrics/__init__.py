"""What a sparse network costs and what it looks at."""

from sparse_rl.metrics.connectivity import connections_per_feature
from sparse_rl.metrics.counts import count_weights

__all__ = ["connections_per_feature", "count_weights"]
