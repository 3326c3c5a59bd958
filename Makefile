# Two commands on a fresh machine: `make demo` and `make test`. Both build .venv once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The programs of fast tests run for milliseconds: most of their time is compilation.
COMPILE_FAST := --xla_backend_optimization_level=1

.PHONY: demo test test-slow topology lint types clean

demo: $(VENV)/installed
	@echo "== demo: BAT on real handwritten digits (configs/digits_bat.py)"
	$(BIN)/python launch.py --config=configs/digits_bat.py
	@echo "== demo: done. Open runs/digits_bat/report.html; its numbers are in results.json."

test: lint types
	@echo "== test: everything but the tests marked slow (those: make test-slow)"
	XLA_FLAGS=$(COMPILE_FAST) $(BIN)/python -m pytest -n 2

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow

# The compiler for TPUs has an environment of its own: requirements-tpu.txt says why.
topology:
	@$(MAKE) --no-print-directory VENV=.venv-tpu .venv-tpu/installed-tpu
	@echo "== topology: compiling training steps for TPU slices without a TPU"
	.venv-tpu/bin/python -m pytest -m "slow or not slow" tests/jobs/test_topology.py

lint: $(VENV)/installed-dev
	@echo "== lint"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed-dev
	@echo "== types"
	$(BIN)/mypy

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "bat_jax needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "== environment: creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "no venv module for $(PYTHON): install it (Debian: apt install python3-venv)"; exit 2; }

$(VENV)/installed: requirements.txt pyproject.toml | $(VENV)/bin/python
	@echo "== environment: installing requirements.txt (about 700 MB, once)"
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps -e .
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt requirements-gcs.txt $(VENV)/installed
	@echo "== environment: installing requirements-dev.txt"
	$(BIN)/pip install --quiet -r requirements-dev.txt
	@touch $@

$(VENV)/installed-tpu: requirements-tpu.txt $(VENV)/installed-dev
	@echo "== environment: installing requirements-tpu.txt (about 400 MB, once)"
	$(BIN)/pip install --quiet -r requirements-tpu.txt
	@touch $@

clean:
	rm -rf $(VENV) .venv-tpu .pytest_cache .mypy_cache .ruff_cache *.egg-info
