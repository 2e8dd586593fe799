# Work on the project: `make check` is what a change has to pass.
.PHONY: check format lint types test slow bench

check: lint types test

format:
	ruff format .
	ruff check --fix .

lint:
	ruff format --check .
	ruff check .

types:
	mypy

test:
	pytest

slow:
	pytest -m slow

bench:
	python benchmarks/kernels.py
