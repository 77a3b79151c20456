# make demo: the whole job on generated reviews, no network once installed.   make test: every test.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test lint audit reliability clean

demo: .venv/demo
	$(BIN)/python train.py experiment=demo

test: .venv/dev
	$(BIN)/python -m pytest

# half an hour: real processes that are really killed, every file damaged in thousands of ways; the table goes into the README
reliability: .venv/dev
	$(BIN)/python -m pytest tests/reliability --long --timeout 7200
	$(BIN)/python benchmarks/readme.py

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# strict: a package that could not be looked up is else passed over, and the audit of nothing succeeds
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

# torch first and alone: without it being there, other packages would ask for its largest build
.venv/demo: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) torch
	$(INSTALL) --editable ".[demo]"
	touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) torch
	$(INSTALL) --editable ".[dev]"
	touch $@

.venv/audit: constraints.txt | .venv/bin/python
	$(INSTALL) pip-audit
	touch $@

clean:
	rm -rf .venv build src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
