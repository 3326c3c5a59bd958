# Two commands on a fresh machine: `make demo` and `make test`. Both build .venv once.
#
# Python 3.11 uses the packages of requirements.txt, newer ones those of requirements-newest.txt.
# `make test PYTHON=python3.13`, or PINS=newest, tests the newer ones in their own environment,
# .venv-newest.

ASKED := $(filter-out undefined,$(origin PYTHON) $(origin PINS))
# The first of these Pythons that runs, by name or from pyenv's folder.
runs = $(shell for python in $(foreach name,$(1),$(name) \
  "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/*/bin/$(name)); \
  do "$$python" -c "" 2>/dev/null && echo "$$python" && break; done)
NEWER := $(call runs,python3.13 python3.12)
ifdef PYTHON
  INTERPRETER := $(or $(call runs,$(PYTHON)),$(PYTHON))
else ifeq ($(PINS),newest)
  INTERPRETER := $(or $(NEWER),python3)
else
  INTERPRETER := python3
endif
ifndef PINS
  PINS := $(shell $(INTERPRETER) -c \
    'import sys; print("newest" if sys.version_info >= (3, 12) else "oldest")' 2>/dev/null)
endif
VENV := $(if $(and $(ASKED),$(filter newest,$(PINS))),.venv-newest,.venv)
BIN := $(VENV)/bin
REQUIREMENTS := requirements$(if $(filter newest,$(PINS)),-newest).txt

ifdef PYTHON
ifneq ($(wildcard $(VENV)/bin/python),)
ifneq ($(shell $(VENV)/bin/python -V),$(shell $(INTERPRETER) -V))
$(error $(VENV) has $(shell $(VENV)/bin/python -V), and PYTHON is $(shell $(INTERPRETER) -V): remove   $(VENV), or name another environment with VENV=)
endif
endif
endif

# The programs of fast tests run for milliseconds and spend most of their time compiling. With one
# thread, they round identically for any number of devices. Newer compilers have only one emitter of
# fusions.
COMPILE_FAST := --xla_backend_optimization_level=0 --xla_cpu_multi_thread_eigen=false \
  $(if $(filter oldest,$(PINS)),--xla_cpu_use_fusion_emitters=false)
# The tests that depend most on the packages, in about a minute: losses, attacks, models, a step of
# every method, and a run with its checkpoints.
SHORT := tests/test_losses.py tests/attacks/test_pgd.py tests/attacks/test_apgd.py tests/models \
  tests/training/test_step.py::test_every_objective_steps_to_finite_parameters \
  tests/training/test_schedules.py tests/training/test_history.py tests/interop/test_weights.py \
  tests/test_public_api.py tests/test_pages.py tests/runtime/test_backend.py tests/test_environment.py \
  $(wildcard tests/test_cli.py)

.PHONY: demo test test-more test-short test-slow topology tutorial docs lint types newer clean

demo: $(VENV)/installed
	@echo "== demo: BAT on real handwritten digits (configs/digits_bat.py)"
	$(BIN)/python launch.py --config=configs/digits_bat.py
	@echo "== demo: done. Open runs/digits_bat/report.html; its numbers are in results.json."

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

test: lint types
	@echo "== test: the core; make test-more tests what stands on it"
	XLA_FLAGS="$(COMPILE_FAST)" $(PYTEST) -m "not slow and not more"

test-more: $(VENV)/installed-dev
	@echo "== test: what stands on the core (tests/conftest.py); make test-slow has the rest"
	XLA_FLAGS="$(COMPILE_FAST)" $(PYTEST) -m "more and not slow"

test-short: $(VENV)/installed-dev
	@echo "== test: a short part, with $$($(BIN)/python --version) and $(REQUIREMENTS)"
	XLA_FLAGS="$(COMPILE_FAST)" $(PYTEST) $(SHORT)

test-slow: $(VENV)/installed-notebook
	$(BIN)/python -m pytest -m slow

# The compiler for TPUs needs its own environment; requirements-tpu.txt explains why.
topology:
ifeq ($(PINS),newest)
	@echo "make topology needs the Python of requirements.txt: make topology PYTHON=python3.11"; exit 2
endif
	@$(MAKE) --no-print-directory VENV=.venv-tpu .venv-tpu/installed-tpu
	@echo "== topology: compiling training steps for TPU slices without a TPU"
	.venv-tpu/bin/python -m pytest -m "slow or not slow" tests/jobs/test_topology.py

tutorial: $(VENV)/installed-notebook
	@echo "== tutorial: executing examples/tutorial.ipynb and storing its outputs"
	$(BIN)/python -m tests.tutorial

# The site is read from its files, or from any server.
docs:
	@$(MAKE) --no-print-directory VENV=.venv-docs .venv-docs/installed-docs
	@echo "== docs: building the site"
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "== docs: done. Open site/index.html."

lint: $(VENV)/installed-dev
	@echo "== lint"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed-dev
	@echo "== types"
	$(BIN)/mypy

# Prints the Python that PINS=newest takes, if there is one.
newer:
	@echo $(NEWER)

$(VENV)/bin/python:
	@$(INTERPRETER) -c 'import sys; sys.exit(sys.version_info < (3, $(if $(filter newest,$(PINS)),12,11)))' || \
	  { echo "bat_jax needs Python 3.11 or newer, and PINS=newest 3.12; name one: make PYTHON=/path/to/python3.13"; exit 2; }
	@echo "== environment: creating $(VENV)"
	@$(INTERPRETER) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "no venv module for $(INTERPRETER): install it (Debian: apt install python3-venv)"; exit 2; }

$(VENV)/installed: $(REQUIREMENTS) pyproject.toml setup.py | $(VENV)/bin/python
	@echo "== environment: installing $(REQUIREMENTS) (about 700 MB, once)"
	$(BIN)/pip install --quiet -r $(REQUIREMENTS)
	$(BIN)/pip install --quiet --no-deps -e .
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt requirements-gcs.txt $(VENV)/installed
	@echo "== environment: installing requirements-dev.txt"
	$(BIN)/pip install --quiet -r $(REQUIREMENTS) -r requirements-dev.txt
	@touch $@

$(VENV)/installed-notebook: requirements-notebook.txt $(VENV)/installed-dev
	@echo "== environment: installing requirements-notebook.txt"
	$(BIN)/pip install --quiet -r requirements-notebook.txt
	@touch $@

$(VENV)/installed-tpu: requirements-tpu.txt $(VENV)/installed-dev
	@echo "== environment: installing requirements-tpu.txt (about 400 MB, once)"
	$(BIN)/pip install --quiet -r requirements-tpu.txt
	@touch $@

$(VENV)/installed-docs: requirements-docs.txt | $(VENV)/bin/python
	@echo "== environment: installing requirements-docs.txt"
	$(BIN)/pip install --quiet -r requirements-docs.txt
	@touch $@

clean:
	rm -rf $(VENV) .venv-newest .venv-tpu .venv-docs build dist site .pytest_cache .mypy_cache .ruff_cache *.egg-info
