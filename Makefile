# A machine with Python 3.11 or newer and make needs no more than `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Stamps say what is installed; they are old when the requirements are newer.
BASE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
# Tests are small: one thread each and several at once is what keeps the cores busy.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

.PHONY: help demo bench test lint test-slow hostile fuzz kills mutants docs dist population

help:
	@echo "make demo       the whole story in a minute: plant, measure, repair, measure again"
	@echo "make bench      a small grid of attacks and defenses on digits, and its pages; minutes"
	@echo "make test       lint, types and tests"
	@echo "make lint       lint and types only"
	@echo "make test-slow  the tests with trained victims, too"
	@echo "make hostile    over a thousand hostile files, each opened as you would, and what came of them"
	@echo "make fuzz       damaged copies of good files for MINUTES=5, with another seed each time"
	@echo "make kills      ends attack, repair, scan, bench, report and convert at ten moments each; minutes"
	@echo "make mutants    deletes the core ideas of attacks and defenses and demands that a test fails (minutes)"
	@echo "make docs       the documentation as pages that work offline, in site/"
	@echo "make dist       sdist and wheel, both tried in fresh environments"
	@echo "make population small clean and backdoored networks for the scanners (hours; goes on)"

demo: $(BASE)
	$(BIN)/unbackdoor demo --out demo --force

# Another grid: make bench GRID=grids/attacks.toml OUT=attacks
GRID ?= grids/smoke.toml
OUT ?= bench

bench: $(BASE)
	$(BIN)/unbackdoor bench $(GRID) --out $(OUT)
	$(BIN)/unbackdoor report $(OUT)

test: lint
	$(PYTEST)

test-slow: lint
	$(PYTEST) -m "slow or not slow"

HOSTILE := OMP_NUM_THREADS=1 PYTHONPATH=src:tests $(BIN)/python -m

hostile: $(DEV)
	$(HOSTILE) hostile.campaign

# A find is made again by its reader, seed and number: make fuzz AGAIN="--reader npz --seed 3 --only 8"
MINUTES ?= 5
AGAIN ?=

fuzz: $(DEV)
	$(HOSTILE) hostile.fuzz --minutes $(MINUTES) $(AGAIN)

kills: $(DEV)
	$(HOSTILE) hostile.kills

# Small networks that scanners are calibrated on: an hour or two; goes on where it stopped
population: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/population.py plant

# Some of them only: make mutants ONLY=Blind
ONLY ?=

mutants: $(DEV)
	$(HOSTILE) attacks.mutants $(ONLY)
	$(HOSTILE) defenses.mutants $(ONLY)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

dist: $(DEV)
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	PYTHON=$(abspath $(BIN))/python .ci/dist

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unbackdoor needs Python 3.11 or newer; set PYTHON")'
	$(PYTHON) -m venv $(VENV)

$(BASE): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(BASE)
