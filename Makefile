# Every target but clean and dist makes .venv first where it is missing or out of date.
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH ?=
PIP := -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
FRESH_PIP := $(if $(TORCH),-m pip install --disable-pip-version-check --quiet,$(PIP))
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or later: make PYTHON=python3.12")
SOURCES := gradsurgery smartreg examples tests benchmarks docs
DISTRIBUTIONS := gradsurgery smartreg examples/minbert_multitask

.PHONY: demo test test-deep errors fuzz kills mutations check bench docs dist clean
demo: $(READY)
	$(BIN)/minbert demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

test-deep: $(READY)
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest tests/gradsurgery tests/smartreg

# A run and a write, each killed twenty times at random moments, which must end as if nothing had been.
kills: $(READY)
	PYTHONPATH=.:examples OMP_NUM_THREADS=1 $(BIN)/python -m tests.minbert_multitask.kills --kills $(or $(KILLS),20)

# What every bad call says, into tests/errors/messages.txt: read its diff as a user would.
errors: $(READY)
	PYTHONPATH=.:examples OMP_NUM_THREADS=1 $(BIN)/python -m tests.errors

# Damaged files for every reader of the example, until the time is out.
fuzz: $(READY)
	PYTHONPATH=.:examples OMP_NUM_THREADS=1 $(BIN)/python -m tests.minbert_multitask.fuzz --seconds $(or $(SECONDS),300)

# Wrong versions of the code, each of which must fail the tests named beside it: tests/mutations.txt.
mutations: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutations --jobs $(JOBS)

check: $(READY)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python -m pytest -q tests/test_imports.py

# One thread, one after another: run it on a machine that does nothing else. Its README shows the results.
bench: export OMP_NUM_THREADS = 1
bench: $(READY)
	-$(BIN)/python $(PIP) --no-deps --requirement requirements-bench.txt
	$(BIN)/python -m benchmarks.projection --model minilm --tasks 3
	$(BIN)/python -m benchmarks.projection --model bert-base --tasks 3 --peers gradsurgery,torchjd,libmtl
	$(BIN)/python -m benchmarks.projection --model resnet50 --tasks 3
	$(BIN)/python -m benchmarks.projection --model mlp --tasks 3 --rounds 200
	$(BIN)/python -m benchmarks.projection --model minilm --tasks 8 --peers gradsurgery,torchjd,libmtl
	$(BIN)/python -m benchmarks.end_to_end
	MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 $(BIN)/python -m benchmarks.end_to_end
	$(BIN)/python -m benchmarks.added
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.minbert
	$(BIN)/python -m benchmarks.smart
	$(BIN)/python -m benchmarks.report

# The site into build/docs, every warning an error; its pages' Python and its pictures are tested by `make test`.
docs: $(READY)
	$(BIN)/python $(PIP) --requirement requirements-docs.txt
	rm -rf build/docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs build/docs
	$(BIN)/python -m docs.check_links build/docs

# Wheels and sdists into dist/, then the library tests against the installed wheels, away from the checkout: with the
# versions of constraints.txt, or with TORCH="==2.4.0" or TORCH=">=2.4" and what pip finds for it. Not from .venv: its
# versions are not to be had for the oldest Python of the libraries.
dist:
	rm -rf dist build $(DISTRIBUTIONS:%=%/build)
	$(PYTHON) -m venv build/tools
	build/tools/bin/python $(FRESH_PIP) build twine
	for distribution in $(DISTRIBUTIONS); do build/tools/bin/python -m build --outdir dist $$distribution >dist.log 2>&1 || { cat dist.log; exit 1; }; done
	rm -f dist.log
	build/tools/bin/python -m twine check --strict dist/*
	$(PYTHON) -m venv build/wheels
	build/wheels/bin/python $(FRESH_PIP) "torch$(TORCH)" dist/gradsurgery-*.whl dist/smartreg-*.whl --requirement requirements-test.txt
	build/wheels/bin/python $(FRESH_PIP) --no-deps --requirement requirements-nodeps.txt
	cp -r tests setup.cfg build/wheels/ && cd build/wheels && bin/python -m pytest -o pythonpath=. -q tests/gradsurgery tests/smartreg tests/typing

clean:
	rm -rf build dist $(DISTRIBUTIONS:%=%/build)

$(READY): requirements-dev.txt requirements-test.txt requirements-nodeps.txt constraints.txt $(DISTRIBUTIONS:%=%/pyproject.toml)
	test -x $(BIN)/python || { $(PYTHON) -c '$(NEW_ENOUGH)' && $(PYTHON) -m venv $(VENV); }
	$(BIN)/python $(PIP) --requirement requirements-dev.txt
	$(BIN)/python $(PIP) --no-deps --requirement requirements-nodeps.txt
	touch $@
