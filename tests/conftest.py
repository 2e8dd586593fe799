"""Processes that test side by side (``pytest -n``) have one thread each: those of several would wait for each other."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
