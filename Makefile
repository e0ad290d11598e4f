# Every target makes .venv first where it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := gradsurgery smartreg examples/minbert_multitask benchmarks tests

.PHONY: demo test test-deep check bench docs dist clean
demo: $(READY)
	$(BIN)/minbert demo

$(READY): requirements-dev.txt requirements-nodeps.txt constraints.txt gradsurgery/pyproject.toml smartreg/pyproject.toml examples/minbert_multitask/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --requirement requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --requirement requirements-nodeps.txt
	touch $@

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python -m pytest -q tests/test_imports.py

test-deep: $(READY)
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest tests/gradsurgery tests/smartreg
