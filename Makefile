# prophrl: `make demo` runs the whole pipeline on the digital twin, `make test` checks everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# make demo TASK=place_cube EPISODES=30 TRIALS=20 HEADLESS=1 OUTPUT=runs/demo
TASK ?= place_cube
EPISODES ?= 30
TRIALS ?= 20
HEADLESS ?= 1
OUTPUT ?= runs/demo

.PHONY: help setup demo test test-slow check benchmarks clean

help:
	@echo "make demo        cell -> demonstrations -> dataset -> policy -> trials -> $(OUTPUT)/report.html"
	@echo "                 (TASK=$(TASK) EPISODES=$(EPISODES) TRIALS=$(TRIALS) HEADLESS=$(HEADLESS) OUTPUT=$(OUTPUT))"
	@echo "make test        lint, types, import rules and tests"
	@echo "make test-slow   the longer tests too"
	@echo "make benchmarks  timing figures of this machine, each next to its alternative"
	@echo "make setup       only the set-up (the others run it themselves)"

setup:
	@$(PYTHON) ros2_ws/setup/bootstrap.py --venv $(VENV)

demo: setup
	@$(BIN)/prophrl demo --task $(TASK) --episodes $(EPISODES) --trials $(TRIALS) --headless $(HEADLESS) --output $(OUTPUT)

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest -q

test-slow: check
	$(BIN)/python -m pytest -q -m "slow or not slow" --timeout 900

benchmarks: setup
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf build install log .pytest_cache .mypy_cache .ruff_cache
