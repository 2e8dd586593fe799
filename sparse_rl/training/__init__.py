"""One training run: the plan, the folder it leaves, and what one sees meanwhile."""
