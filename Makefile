# Everything runs in .venv; `make` alone lists what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# An interrupted .venv/bin/python counts as not made.
.DELETE_ON_ERROR:
.PHONY: help setup demo up test soak check bench locust locust-headless lock clean
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
ARGS ?=
EXAMPLES ?= 2000
BIN := .venv/bin
STAMP := .venv/.ready
LOCUST := .venv/.locust

# An activated environment, a user's PYTHONPATH or pip's user mode must not leak into .venv.
unexport PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

help: ## List the targets
	@echo "Gatekeeper: make TARGET [ARGS='…']"
	@echo
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 20

setup: $(STAMP) ## Create .venv with everything locked (PYTHON=python3.12 picks the interpreter)

demo: $(STAMP) ## Run a whole flash sale on this machine and check its books
	@$(BIN)/gatekeeper demo $(ARGS)

up: $(STAMP) ## Start the whole stack: Valkey, Postgres, front door, worker
	@$(BIN)/gatekeeper up $(ARGS)

test: $(LOCUST) ## Run the tests (ARGS='-k sold_out' narrows them)
	@$(BIN)/python -m pytest $(ARGS)

soak: $(STAMP) ## Live as many random lives of a sale as you like, and 60 s of full load (EXAMPLES=2000)
	@GATEKEEPER_EXAMPLES=$(EXAMPLES) GATEKEEPER_LOAD_SECONDS=60 GATEKEEPER_RACES=10000 $(BIN)/python -m pytest --timeout 86400 -s \
	  tests/integration/test_state_machine.py tests/integration/test_checkpoints.py tests/integration/test_races.py $(ARGS)

check: $(STAMP) ## Lint, format check, types, import floors
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "error: not formatted; remedy: $(BIN)/ruff format ." >&2; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench: $(STAMP) ## Measure the gate beside other designs, into docs/ (ARGS=--quick for a hint in < 60 s)
	@$(BIN)/python -m bench $(ARGS)

locust: $(LOCUST) ## Attack a sale from a web page on loopback (ARGS='--sale NAME'; docs/locust.md)
	@$(BIN)/locust -f bench/locustfile.py $(ARGS)

locust-headless: $(LOCUST) ## The same for 30 s with pass or fail (ARGS='--sale NAME --arrival-rate 200 --max-p99-ms 100')
	@$(BIN)/locust -f bench/locustfile.py --headless --only-summary --run-time 30s $(ARGS)

lock: $(STAMP) ## Resolve requirements/*.lock again (ARGS=--upgrade takes newer versions)
	@echo "resolving requirements/*.lock"
	@$(BIN)/python -c 'import uv' 2>/dev/null || { $(call pip,install --quiet "uv>=0.9"); } 2>.venv/pip.log
	@$(call compile,dev) --extra embedded --extra dev pyproject.toml
	@$(call compile,runtime) --constraint requirements/dev.lock pyproject.toml
	@$(call compile,bench) --constraint requirements/dev.lock --extra bench pyproject.toml
	@$(call compile,build) --constraint requirements/dev.lock --group build

clean: ## Remove .venv and every cache
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# No index address and no machine path may enter a lock: it must install from any mirror.
compile = UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/python -m uv pip compile --quiet --universal \
	--python-version 3.11 --generate-hashes --no-emit-index-url --output-file requirements/$(1).lock $(ARGS)

# Debian without python3-venv has no pip to put into .venv: the system's pip then installs from outside.
pip = if [ -e .venv/.pip-outside ]; then $(PYTHON) -m pip --python $(BIN)/python $(1); else $(BIN)/python -m pip $(1); fi

# Runs pip with one progress line per ten packages; any failure becomes one line that says what to do.
# --no-compile: compiling all of site-packages is a third of the time, and most of it is never imported.
define install
if ! { $(call pip,install $(1)) 2>&1; echo "exit $$?"; } | tee .venv/pip.log | { \
	count=0; status=1; quiet=; \
	while IFS= read -r line; do case $$line in \
	  "Collecting "*|"Processing "*) count=$$((count + 1)); [ $$((count % 10)) -ne 0 ] || echo "  fetched $$count packages" ;; \
	  "Installing collected"*) [ $$count -lt 10 ] || echo "  installing $$count packages" ;; \
	  "WARNING: Retrying"*) [ $$quiet ] || echo "  the package index does not answer, trying again"; quiet=yes ;; \
	  "exit "*) status=$${line#exit } ;; \
	esac; done; exit $$status; }; then \
	if grep -qE 'NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|Connection broken|name resolution|from versions: none' .venv/pip.log; then \
	  echo "error: cannot reach a package index; remedy: connect, or set PIP_INDEX_URL to a mirror, then make setup" >&2; \
	else \
	  echo "error: pip failed: $$(grep -m1 '^ERROR' .venv/pip.log || tail -n 2 .venv/pip.log | head -n 1); the whole output is in .venv/pip.log" >&2; \
	fi; exit 1; fi
endef

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: $(PYTHON) is missing or older than 3.11; remedy: make PYTHON=python3.12 setup" >&2; exit 1; }
	@echo "creating .venv with $$($(PYTHON) -V)"
	@rm -rf .venv
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv .venv; \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1; then $(PYTHON) -m venv --without-pip .venv && touch .venv/.pip-outside; \
	else echo "error: $(PYTHON) has neither venv nor pip; remedy: apt install python3-venv (or your system's package of it)" >&2; exit 1; fi

$(STAMP): pyproject.toml requirements/dev.lock requirements/build.lock | .venv/bin/python
	@echo "installing requirements/dev.lock into .venv"
	@$(call install,--no-compile --require-hashes -r requirements/dev.lock -r requirements/build.lock)
	@$(call install,--no-deps --no-build-isolation -e .)
	@touch $@
	@echo "ready: .venv"

# Two dozen packages that only the locust benchmark and its test need.
$(LOCUST): requirements/bench.lock | $(STAMP)
	@echo "installing requirements/bench.lock into .venv"
	@$(call install,--no-compile --require-hashes -r requirements/bench.lock)
	@touch $@
