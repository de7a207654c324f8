# make run    train on the bundled digits (ARGS="data=mnist model.dropout=0.3" passes overrides)
# make test   lint, format, types and the test suite
# make soak   the tests that kill, stall and cut off real processes, and those with a real browser
# make ui     the MLflow UI on the local store
# Each sets up .venv from requirements.lock first, once.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
ARGS ?= experiment=digits
PIP := .venv/bin/python -m pip --disable-pip-version-check
READY := .venv/.ready

.PHONY: run test soak ui setup lock
.DEFAULT_GOAL := run

run: $(READY)
	.venv/bin/python run.py $(ARGS)

test: $(READY)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/python -m pytest

soak: $(READY)
	.venv/bin/python -m pytest -m soak

ui: $(READY)
	@.venv/bin/python scripts/ui.py

setup: $(READY)

# An environment names the folder of the project: after a move or a copy it is set up again.
SET_UP_IN := $(shell cat $(READY) 2>/dev/null)
ifneq ($(or $(SET_UP_IN),$(CURDIR)),$(CURDIR))
.PHONY: $(READY)
endif

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11 to 3.13 is needed, $(PYTHON) is another. Choose with: make PYTHON=python3.11"; exit 2; }
	@echo "Setting up .venv from requirements.lock (once; a minute or two, 2 GB)"
	@$(PYTHON) -m venv .venv
	@$(PIP) install --quiet --no-deps --requirement requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@$(PIP) check
	@echo '$(CURDIR)' > $(READY)

# Renew requirements.lock with the newest versions that pyproject.toml allows.
lock:
	@rm -rf .venv && $(PYTHON) -m venv .venv
	@$(PIP) install --quiet --upgrade "setuptools>=77" && $(PIP) install --quiet --editable '.[dev]'
	@$(PIP) freeze --all --exclude-editable | grep --invert-match '^pip==' > requirements.lock
	@echo '$(CURDIR)' > $(READY) && echo "Wrote requirements.lock"
