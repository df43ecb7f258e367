# Everything from a bare checkout: a virtual environment, the install, then the demo or the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test exhaustive quick lint clean

demo: $(VENV)/.installed
	$(BIN)/otgraph demo

test: $(VENV)/.installed-test lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not exhaustive"

# the other cases of the longest tests; continuous integration runs both
exhaustive: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m exhaustive

# without the tests marked slow: to run while working
quick: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q -m "not slow and not exhaustive"

lint: $(VENV)/.installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	! grep -rnE "^(<<<<<<<|>>>>>>>) " otgraph passes tests tools *.md --include=*.py --include=*.md --include=*.txt
	$(BIN)/pyright --pythonpath $(BIN)/python

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# a stamp is younger than what it was made from once its install has succeeded, so a second run installs nothing
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e ".[test]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
