# Work on the project: `make check` is what a change has to pass.
.PHONY: check format lint types test slow bench

check: format lint types test

format:
	ruff format .

lint:
	ruff check .

types:
	mypy

test:
	pytest

slow:
	pytest -m slow

bench:
	python benchmarks/kernels.py
