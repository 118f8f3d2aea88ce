# Every target sets up what it needs in .venv; all it takes is make and Python 3.11 or newer.

PYTHON ?= python3
WORKERS ?= 2

# What the suite was last run with. The package itself asks for lower bounds only; where these
# do not exist or do not suit the machine, say so: make test TORCH='torch torchvision'
# (after `make clean` if .venv is already there).
TORCH ?= torch==2.14.1 torchvision==0.29.1
SPIKINGJELLY ?= spikingjelly==2.0.0

# The generation of 2023, which most published code uses. Only laid over .venv, not installed.
OLD_SPIKINGJELLY := spikingjelly==0.0.0.0.14

VENV := .venv
PY := $(VENV)/bin/python
OLD := $(VENV)/spikingjelly-0.0.0.0.14
PIP_INSTALL := $(PY) -m pip --quiet --disable-pip-version-check install
PYTEST := $(PY) -m pytest -n $(WORKERS)

.DEFAULT_GOAL := help
.PHONY: help demo test lint clean

help:
	@echo 'make demo   train a small network with and without shortcuts (examples/quickstart.py)'
	@echo 'make test   lint, then run the tests on both generations of SpikingJelly'
	@echo 'make lint   ruff and mypy only'
	@echo 'make clean  remove .venv and every cache and build output'

demo: $(VENV)/.examples-ready
	$(PY) examples/quickstart.py

test: lint $(OLD)/.ready
	$(PYTEST)
	PYTHONPATH='$(CURDIR)/$(OLD)' $(PYTEST)

lint: $(VENV)/.test-ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Order-only on the interpreter: its date is that of the Python it links to, and says nothing.
$(VENV)/.%-ready: pyproject.toml Makefile | $(PY)
	$(PIP_INSTALL) $(TORCH) $(SPIKINGJELLY) --editable '.[$*]'
	@touch $@

$(OLD)/.ready: Makefile | $(PY)
	$(PIP_INSTALL) --no-deps --upgrade --target $(OLD) $(OLD_SPIKINGJELLY)
	@touch $@
