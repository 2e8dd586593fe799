# Work on the project: `make check` is what a change has to pass.
.PHONY: check format lint types test slow docs bench

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
	pytest -n auto

slow:
	pytest -m slow -n auto --dist worksteal

# A folder of pages, build/site/index.html; `pip install -c constraints.txt -e '.[docs]'` first.
docs:
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# A quarter of an hour on two quiet cores; `pip install -c constraints.txt -e '.[bench]'` first, for the other packages.
bench:
	python benchmarks/kernels.py --threads 1
	python benchmarks/kernels.py --threads 2
	python benchmarks/throughput.py
	python benchmarks/breakdown.py
	python benchmarks/scaling.py
	python benchmarks/memory.py
