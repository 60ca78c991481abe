# make demo        one small run, in runs/demo (the one before it is removed)
# make test        the quick tests
# make test-stage  kills, command lines and compilers
# make test-attack wrong files, wrong calls and interruptions by the thousand; prints what came of them
# make test-slow   the learning tests, which take minutes
# make lint        ruff and mypy
# make clean       remove the environment, runs, builds and caches

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT := runs/demo
DEMO = $(BIN)/bpl-neuro run target-reaching --size demo --out $(DEMO_OUT)

PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := $(shell find bpl_neuro models simulations -type f -not -name '*.pyc')

# Two stamps: .run says that `bpl-neuro` works, .test that an editable install with the test tools is there.
RUN_STAMP := $(VENV)/.run
TEST_STAMP := $(VENV)/.test

.PHONY: demo test test-stage test-attack test-slow lint clean

# A run refuses to write over an earlier one.
demo: $(RUN_STAMP)
	rm -rf $(DEMO_OUT)
	$(DEMO)

test: $(TEST_STAMP)
	$(BIN)/python -m pytest

test-stage: $(TEST_STAMP)
	$(BIN)/python -m pytest -m 'stage and not slow'

test-attack: $(TEST_STAMP)
	$(BIN)/python -m pytest -m 'attack and not slow'

test-slow: $(TEST_STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "bpl_neuro needs Python 3.11 or newer: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# An editable install already there serves the demo as well, and sees changed sources by itself.
$(RUN_STAMP): pyproject.toml $(SOURCES) | $(BIN)/python
	@if [ $(TEST_STAMP) -nt pyproject.toml ]; then touch $@; else \
	    echo "$(PIP) ."; rm -f $(TEST_STAMP); $(PIP) . && touch $@; fi

$(TEST_STAMP): pyproject.toml | $(BIN)/python
	$(PIP) -e '.[test]'
	touch $@ $(RUN_STAMP)
