"""One training run: the command line, the plan, the folder it leaves, and what one sees meanwhile."""
