# Two commands do everything on a fresh machine:
#   make demo   the environment, then a real small stream end to end, with its report
#   make test   the environment, then the tests
PYTHON ?= python3
BIN := .venv/bin
# The torch build for CPUs has no CUDA packages behind it; constraints.txt pins what was tested.
INSTALL := $(BIN)/pip install --quiet --constraint constraints.txt

.PHONY: demo test test-slow durability fuzz lint check docs format clean

demo: .venv/.ready
	$(BIN)/lifelong demo demo-run

test: .venv/.ready
	$(BIN)/python -m pytest -n 2

test-slow: .venv/.ready
	$(BIN)/python -m pytest -m "slow or not slow"

# Everything that tests/durability promises, in full; EVERY=10 tries each tenth operation.
EVERY ?= 1
durability: .venv/.ready
	DURABILITY_EVERY=$(EVERY) $(BIN)/python -m pytest tests/durability -m "slow or not slow"

# Damaged and hostile datasets for every reader; START goes on where a run was stopped, SEED draws others.
CASES ?= 200000
SEED ?= 0
START ?= 0
fuzz: .venv/.ready
	$(BIN)/python -m tests.durability.fuzz --cases $(CASES) --seed $(SEED) --start $(START)

# Style and types.
lint: .venv/.ready
	$(BIN)/python -m ruff check lifelong policies stores tests benchmarks docs
	$(BIN)/python -m ruff format --check lifelong policies stores tests
	$(BIN)/python -m mypy

# The same, the contracts of the wings, the wheel, and that every command in the documentation works.
check: lint
	$(BIN)/python -m pytest tests/package tests/docs

# The documentation as a site, in build/docs; a warning is an error, and nothing is fetched.
docs: .venv/.ready
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs build/docs

format: .venv/.ready
	$(BIN)/ruff check --fix lifelong policies stores tests
	$(BIN)/ruff format lifelong policies stores tests

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) torch
	$(INSTALL) --editable '.[demo,dev]'
	touch $@

clean:
	rm -rf .venv demo-run build *.egg-info
