"""The parts of ``experiment.py``: a grid of runs, their launch, their curves, and tables with intervals."""
