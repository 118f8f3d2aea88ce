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

# The demo needs no GPU. Given the address that PyTorch's install page shows for the CPU build, as
# in `make demo CPU_BUILDS=https://...`, pip prefers 2.14.1+cpu from there to 2.14.1.
CPU_BUILDS ?=
CPU_BUILD := $(if $(CPU_BUILDS),--extra-index-url $(CPU_BUILDS) --timeout 15 --retries 2)

VENV := .venv
PY := $(VENV)/bin/python
OLD := $(VENV)/spikingjelly-0.0.0.0.14
PIP_INSTALL := $(PY) -m pip --disable-pip-version-check install
# A worker that is done takes over what another has not begun.
PYTEST := $(PY) -m pytest -n $(WORKERS) --dist worksteal

# The counts in pytest's JUnit file, in words.
N := "\([0-9]*\)"
COUNT := sed -n 's/.*<testsuite [^>]*errors=$(N) failures=$(N) skipped=$(N) tests=$(N).*/\
    \4 tests: \2 failed, \1 errors, \3 skipped/p'

.DEFAULT_GOAL := help
.PHONY: help demo test test-new test-old test-slow docs gpu lint clean

help:
	@echo 'make demo   train a small network with and without shortcuts (examples/quickstart.py)'
	@echo 'make test   lint, then run the tests on both generations of SpikingJelly'
	@echo 'make test-slow  a dozen tests more, of a quarter of a minute and longer'
	@echo 'make docs   the documentation site, into build/site'
	@echo 'make gpu    on a machine with a GPU: check and measure what a CPU cannot show'
	@echo 'make lint   ruff and mypy only'
	@echo 'make clean  remove .venv and every cache and build output'

demo: $(VENV)/.examples-ready
	@echo 'Training twice, about a minute each; --help of the script lists what can be changed.'
	$(PY) examples/quickstart.py

# All three always run, and all three results stand at the end.
test:
	@status=0; rm -f $(VENV)/new.xml $(VENV)/old.xml; \
	lint=passed; $(MAKE) --no-print-directory lint || { lint=FAILED; status=1; }; \
	new=passed; $(MAKE) --no-print-directory test-new || { new=FAILED; status=1; }; \
	old=passed; $(MAKE) --no-print-directory test-old || { old=FAILED; status=1; }; \
	echo; echo "ruff and mypy             $$lint"; \
	echo "$(SPIKINGJELLY)       $$new  $$($(COUNT) $(VENV)/new.xml 2>/dev/null)"; \
	echo "$(OLD_SPIKINGJELLY)  $$old  $$($(COUNT) $(VENV)/old.xml 2>/dev/null)"; \
	exit $$status

test-new: $(VENV)/.test-ready
	$(PYTEST) -m 'not slow' --junit-xml=$(VENV)/new.xml

test-old: $(VENV)/.test-ready $(OLD)/.ready
	PYTHONPATH='$(abspath $(OLD))' $(PYTEST) -m 'not slow' --junit-xml=$(VENV)/old.xml

# Studies that are killed and go on, several processes that are stopped: a few minutes.
test-slow: $(VENV)/.test-ready
	$(PYTEST) -m slow

# Strict: whatever Sphinx warns of is an error, links to pages and headings included. Nothing is
# fetched from the internet, neither now nor by the pages.
docs: $(VENV)/.docs-ready
	$(PY) -m sphinx -W --keep-going -q -c docs -b html -d build/doctrees . build/site
	@echo 'The site is in build/site: open build/site/index.html'

# GPU=--help lists what can be asked for. The other generation: PYTHONPATH=.venv/spikingjelly-...
gpu: $(VENV)/.test-ready
	$(PY) -m analysis.gpu $(GPU)

lint: $(VENV)/.test-ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean:
	rm -rf $(VENV) .ci/venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The files named .…ready are written last: what was interrupted is begun again.
$(VENV)/.python-ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ...' >&2; exit 1; }
	@echo 'Setting up $(VENV), once: some minutes, up to 3 GB to download and 6 GB on'
	@echo 'the disk, most of it the CUDA build of PyTorch. The demo takes the CPU build, a fraction of'
	@echo "that, where it is all that pip has for this machine, or from make demo CPU_BUILDS=... (the"
	@echo "address that PyTorch's install page shows)."
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Order-only on the interpreter, which the other files need, but need not be newer than.
$(VENV)/.examples-ready: pyproject.toml Makefile | $(VENV)/.python-ready
	$(PIP_INSTALL) --no-deps $(CPU_BUILD) $(TORCH)
	$(PIP_INSTALL) $(TORCH) $(SPIKINGJELLY) --editable '.[examples]'
	@touch $@

$(VENV)/.test-ready: pyproject.toml Makefile | $(VENV)/.python-ready
	$(PIP_INSTALL) $(TORCH) $(SPIKINGJELLY) --editable '.[test]'
	@touch $@

$(VENV)/.docs-ready: pyproject.toml Makefile | $(VENV)/.python-ready
	$(PIP_INSTALL) $(TORCH) $(SPIKINGJELLY) --editable '.[docs]'
	@touch $@

$(OLD)/.ready: Makefile | $(VENV)/.python-ready
	$(PIP_INSTALL) --no-deps --upgrade --target $(OLD) $(OLD_SPIKINGJELLY)
	@touch $@
