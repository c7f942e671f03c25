# prophrl: `make demo` runs the whole pipeline on the digital twin, `make test` checks everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# make demo TASK=place_cube EPISODES=30 TRIALS=20 REINFORCE=0 FULL=0 HEADLESS=1 OUTPUT=runs/demo
TASK ?= place_cube
EPISODES ?= 30
TRIALS ?= 20
REINFORCE ?= 0
FULL ?= 0
HEADLESS ?= 1
OUTPUT ?= runs/demo

# Tests run in parts, two at a time. First LEARNING, COMMANDS and all that is in no list: they only compute, beside lint
# and types. Then NODES and DEVICES, the rooms whose tests start real processes with real deadlines (tests/conftest.py has
# the same list): they mostly wait, so two of them leave each other time. COMMANDS lie within NODES and have no deadlines.
NODES := tests/prophrl_nodes tests/launch
DEVICES := tests/robot_bridge/camera tests/robot_bridge/controller tests/robot_bridge/lab tests/robot_bridge/leader \
    tests/prophrl_models/serving
COMMANDS := tests/prophrl_nodes/offline $(filter-out %/test_calibrate_devices.py %/test_doctor.py, \
    $(wildcard tests/prophrl_nodes/cli/test_*.py))
LEARNING := tests/prophrl_models/prophet tests/prophrl_models/rl tests/prophrl_models/reward \
    tests/prophrl_models/training
PYTEST := $(BIN)/python -m pytest -q
# Options of all parts.
PYTEST_OPTIONS ?=

.PHONY: help setup demo prophet-small test test-slow check lint tests tests-learning tests-rest tests-commands \
    tests-nodes tests-devices benchmarks clean

help:
	@echo "make demo        cell -> demonstrations -> dataset -> policy -> trials -> $(OUTPUT)/report.html"
	@echo "                 (TASK=$(TASK) EPISODES=$(EPISODES) TRIALS=$(TRIALS) HEADLESS=$(HEADLESS) OUTPUT=$(OUTPUT))"
	@echo "                 REINFORCE=1: the policy also learns in a world model's imagination"
	@echo "                 FULL=1: and that world model is trained from nothing (over an hour)"
	@echo "make prophet-small  the shipped world model again, from nothing: some two hours on two cores"
	@echo "make test        lint, types, import rules and tests"
	@echo "make test-slow   the longer tests too"
	@echo "make benchmarks  timing figures of this machine, each next to its alternative"
	@echo "make setup       only the set-up (the others run it themselves)"

setup:
	@$(PYTHON) ros2_ws/setup/bootstrap.py --venv $(VENV)

demo: setup
	@$(BIN)/prophrl demo --task $(TASK) --episodes $(EPISODES) --trials $(TRIALS) --reinforce $(REINFORCE) --full $(FULL) --headless $(HEADLESS) --output $(OUTPUT)

prophet-small: setup
	@$(BIN)/prophrl prophet reference runs/prophet_small

check: setup lint

lint:
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup tests

test-slow: setup
	@$(MAKE) --no-print-directory tests PYTEST_OPTIONS='-m "slow or not slow" --timeout 900 -o faulthandler_timeout=1200'

# What fails in the first part does not keep the second from being run, and is what the whole ends with.
tests:
	@echo "lint, types and tests, two at a time: each shows its output when it is done (minutes)"
	@failed=0; \
	$(MAKE) --no-print-directory -k -j2 --output-sync=target tests-learning tests-rest lint tests-commands || failed=1; \
	$(MAKE) --no-print-directory -k -j2 --output-sync=target tests-nodes tests-devices || failed=1; \
	exit $$failed

tests-learning:
	$(PYTEST) $(PYTEST_OPTIONS) $(LEARNING)

tests-rest:
	$(PYTEST) $(PYTEST_OPTIONS) $(addprefix --ignore=,$(NODES) $(DEVICES) $(LEARNING)) tests

tests-commands:
	$(PYTEST) $(PYTEST_OPTIONS) $(COMMANDS)

tests-nodes:
	$(PYTEST) $(PYTEST_OPTIONS) $(addprefix --ignore=,$(COMMANDS)) $(NODES)

tests-devices:
	$(PYTEST) $(PYTEST_OPTIONS) $(DEVICES)

benchmarks: setup
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf build install log .pytest_cache .mypy_cache .ruff_cache
