# make demo: the whole chain on real text. make test: all tests. Both make their own environment in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/kbert demo --output demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	@echo "== making a virtual environment in $(VENV)"
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'kbert needs Python 3.11 or newer; make PYTHON=...')"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(BIN)/python
	@echo "== installing kbert and what it stands on (TensorFlow is large: a minute or more)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[plots]"
	@touch $@

# The Model Garden's script, a reference in the tests, wants packages that it does not need for this.
$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "== installing the references of the tests"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps "tf-models-official==2.20.0"
	@touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info
