# make demo: the whole chain on real text. make dev: what tests and linters need. make test: every subject
# in minutes. make test-all: the long proofs too. Each makes its own environment in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Files are shared out in the order of tests/conftest.py, the long ones first. One process more than
# processors: tests of several processes wait for each other.
TESTERS = $(shell $(PYTHON) -c "import os; print(min(4, os.cpu_count() + 1))")
PYTEST = $(BIN)/python -m pytest --numprocesses $(TESTERS) --dist loadfile \
	--no-loadscope-reorder --durations 10

.PHONY: demo dev test test-all lint format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/kbert demo --output demo

dev: $(VENV)/.installed-dev
	@echo "== $(VENV) has what the tests and the linters need"

# XLA compiles in half of the time if it optimizes nothing; make test-all compiles as users do.
test: $(VENV)/.installed-dev
	XLA_FLAGS="$$XLA_FLAGS --xla_backend_optimization_level=0" $(PYTEST) -m "not long"

test-all: $(VENV)/.installed-dev
	$(PYTEST) -m "not small"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	@echo "== making a virtual environment in $(VENV)"
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'kbert needs Python 3.11 or newer; make PYTHON=...')"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(BIN)/python
	@echo "== installing kbert and its dependencies (TensorFlow is large: a minute or more)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[plots]"
	@touch $@

# The Model Garden's script, a reference in the tests, declares packages that it does not need for this.
$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "== installing what the tests and the linters need (5.5 GB in all: some minutes)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps "tf-models-official==2.20.0"
	@touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info
