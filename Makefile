# make demo: the whole job on generated reviews, no network once installed.   make check: what to run before a commit.
# make test: all tests but the tiers slow, slurm and gpu.                     make slow, make slurm: these tiers.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# one thread: several cost more than they gain with models as small as those of the tests
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: demo check lint test slow slurm readme reliability audit clean

demo: .venv/demo
	$(BIN)/python train.py experiment=demo

check: lint
	$(PYTEST) -m "not integration and not browser and not slow and not slurm and not gpu"

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# two tests at a time: whole runs wait for imports and disks
test: .venv/dev
	$(PYTEST) -n 2 -m "not slow and not slurm and not gpu"

slow: .venv/dev .venv/loggers
	$(PYTEST) -m "slow and not slurm and not gpu" --timeout 2400

# where .ci/slurm has brought up SLURM, or on a cluster
slurm: .venv/dev
	$(PYTEST) -m slurm

readme: .venv/dev
	$(BIN)/python benchmarks/readme.py --check
	$(PYTEST) tests/test_readme.py --timeout 2400

# half an hour: real processes that are killed, every file damaged in thousands of ways; writes docs/reliability.md
reliability: .venv/dev
	$(PYTEST) tests/reliability --long --timeout 7200
	$(BIN)/python benchmarks/readme.py

# --strict, because otherwise a package that cannot be looked up counts as safe
audit: .venv/audit
	@$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement constraints.txt \
		> .venv/audit.txt 2>&1 || { \
		tail -n 20 .venv/audit.txt; \
		grep -q "known vulnerabilit" .venv/audit.txt \
			|| echo "make audit: not every package could be looked up; it needs a network" >&2; \
		exit 1; }
	@cat .venv/audit.txt

.venv/bin/python:
	$(PYTHON) -m venv .venv

# torch first and alone: if it is missing, other packages ask for its largest build
.venv/demo: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) torch
	$(INSTALL) --editable ".[demo]"
	touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) torch
	$(INSTALL) --editable ".[dev]"
	touch $@

.venv/loggers: .venv/dev
	$(INSTALL) --editable ".[loggers]"
	touch $@

.venv/audit: constraints.txt | .venv/bin/python
	$(INSTALL) pip-audit
	touch $@

clean:
	rm -rf .venv build src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
