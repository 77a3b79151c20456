# make demo: the whole job on generated reviews, no network once installed.   make test: every test.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test lint results clean

demo: .venv/demo
	$(BIN)/python train.py experiment=demo

test: .venv/dev
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

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

clean:
	rm -rf .venv build src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
