# A target makes its own virtual environment, with the versions that
# requirements.txt pins, the first time it is needed. That is `.venv`; where
# PYTHON names another Python than `.venv` was made with, `.venv-3.12` or the like:
#
#   make test PYTHON=/path/to/python3.12

ifeq ($(origin PYTHON),undefined)
  PYTHON := python3
  VENV ?= .venv
else
  asked_version := $(shell "$(PYTHON)" -c \
    'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
  ifeq ($(asked_version),)
    $(error PYTHON=$(PYTHON) does not run; name a Python 3.11 or 3.12)
  endif
  built_version := $(firstword $(shell \
    sed -n 's/^version[a-z_]* *= *\([0-9]*\.[0-9]*\).*/\1/p' .venv/pyvenv.cfg 2>/dev/null))
  ifneq ($(filter-out $(asked_version),$(built_version)),)
    VENV ?= .venv-$(asked_version)
  endif
  VENV ?= .venv
endif

RUN := $(VENV)/bin/python
QUICKSTART := $(RUN) -m embedmask_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
# Two workers. The quick tests of one file stay together and share what they compile;
# the slow ones are shared out one by one.
PYTEST := $(RUN) -m pytest -n 2 --durations 10
ONE_BY_ONE := -rs --dist load --maxschedchunk 1
LOCK := -m uv pip compile --quiet --universal --python-version 3.11 --upgrade \
  --custom-compile-command 'make lock' pyproject.toml

.PHONY: help quickstart test test-slow test-demo docs lint format lock
help:
	@echo 'make quickstart   train on generated scenes, print the COCO table, draw overlays'
	@echo 'make test         the tests, without the slow ones'
	@echo 'make test-slow    the slow ones'
	@echo 'make test-demo    those of the demo, with Gradio, in an environment of its own'
	@echo 'make docs         the documentation, in build/docs; a warning is an error'
	@echo 'make lint         ruff and mypy'
	@echo 'make format       let ruff rewrite what it can'
	@echo 'make lock         pin the newest versions in requirements.txt'
	@echo 'with PYTHON=/path/to/python3.12 for another Python than python3'

installed := $(VENV)/.installed

quickstart: $(installed)
	@$(QUICKSTART)

test: $(installed)
	$(PYTEST) --dist loadfile -m 'not slow'

test-slow: $(installed)
	status=0; \
	$(PYTEST) $(ONE_BY_ONE) -m 'slow and not optimised' || status=1; \
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(PYTEST) $(ONE_BY_ONE) -m optimised || status=1; \
	exit $$status

# Gradio wants an older Pillow than all else is tested with.
test-demo: $(installed)
	$(RUN) -m uv venv --quiet --allow-existing --python $(RUN) $(VENV)-demo
	$(RUN) -m uv pip install --quiet --python $(VENV)-demo/bin/python \
	  --requirement requirements-demo.txt
	$(VENV)-demo/bin/python -m pytest --durations 10 tests/test_demo*.py

docs: $(installed)
	JAX_PLATFORMS=cpu $(RUN) -m sphinx --quiet --fail-on-warning --keep-going --nitpicky \
	  --fresh-env --conf-dir docs . build/docs
	@echo 'build/docs/index.html'

lint: $(installed)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(installed)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

lock:
	"$(PYTHON)" -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade uv
	build/lock/bin/python $(LOCK) --extra docs --extra test --extra video --extra gcs \
	  --group build --output-file requirements.txt
	build/lock/bin/python $(LOCK) --extra demo --extra test \
	  --output-file requirements-demo.txt
	build/lock/bin/python $(LOCK) --extra onnx --output-file requirements-onnx.txt

# The stamp comes last, so that an interrupted installation is taken up again.
$(installed): requirements.txt pyproject.toml
	@$(RUN) -m pip --version >/dev/null 2>&1 || { \
	  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "make: $(PYTHON) is $$("$(PYTHON)" -V 2>&1), which is older than 3.11;" \
	      'name another: make PYTHON=/path/to/python3.11' >&2; \
	    exit 1; }; \
	  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || \
	    echo "make: $(PYTHON) is $$("$(PYTHON)" -V 2>&1), which nothing was tested with;" \
	      'Python 3.11 and 3.12 are' >&2; \
	  "$(PYTHON)" -m venv $(VENV); }
	@echo 'Installing the pinned packages into $(VENV), which takes a minute or a few ...'
	@$(RUN) -m pip install --quiet --requirement requirements.txt
	@$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
