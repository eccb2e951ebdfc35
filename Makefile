# Two commands are all that a fresh clone needs: `make demo` and `make test`. Only Python 3.11 or newer is assumed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help env demo test check bench soak campaign format constraints packages clean

PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3 python; do \
	"$$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$name" && break; done)
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
BENCH_DIR ?= var/bench
SOAK_DIR ?= var/soak
SEEDS ?= 1-10
MINUTES ?= 6
PARALLEL ?= 1
CAMPAIGN_ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

env: $(VENV)/.complete ## the environment in .venv, exact versions, each checked by its hash

$(VENV)/.complete: constraints.txt pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer with venv is needed (Debian and Ubuntu: apt-get install python3 python3-venv)"; exit 1; fi
	@echo "Installing into $(VENV) ..."
	@[ -x $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes --requirement constraints.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: env ## broker, database, gateway, a fleet and a demonstration CMMS in one terminal
	@exec $(BIN)/fieldgate demo

test: env packages ## the whole suite, on real brokers and a real database
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

check: env ## format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: env packages ## measures ingest beside other consumers, sync, and the API during ingest; JSON in var/bench
	@mkdir -p $(BENCH_DIR)
	@$(BIN)/fieldgate bench ingest --peers --json $(BENCH_DIR)/ingest.json
	@$(BIN)/fieldgate bench sync --json $(BENCH_DIR)/sync.json
	@$(BIN)/fieldgate bench api --json $(BENCH_DIR)/api.json

soak: env packages ## the long fault tests, three short seeds of the campaign among them
	@$(BIN)/python -m pytest -m soak --timeout 7200 $(PYTEST_ARGS)

campaign: env packages ## the oracle campaign: SEEDS=1-10 MINUTES=6 PARALLEL=1; reports in var/soak
	@mkdir -p $(SOAK_DIR)
	@$(BIN)/python -m tests.soak.campaign --seeds $(SEEDS) --minutes $(MINUTES) --parallel $(PARALLEL) --dir $(SOAK_DIR) --json $(SOAK_DIR)/report.json $(CAMPAIGN_ARGS)

format: env ## rewrites the sources in the project's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# Existing pins are kept while they fit pyproject.toml; delete constraints.txt first to move every version.
RESOLVE = build/resolver/bin/pip-compile --quiet --generate-hashes --all-build-deps --allow-unsafe --strip-extras --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host
constraints: ## resolves pyproject.toml again into constraints.txt and constraints-daemon.txt (what the image installs)
	@[ -x build/resolver/bin/pip-compile ] || { "$(PYTHON)" -m venv build/resolver && build/resolver/bin/pip install --quiet pip-tools; }
	@$(RESOLVE) --all-extras --output-file constraints.txt pyproject.toml
	@cp constraints.txt constraints-daemon.txt
	@$(RESOLVE) --output-file constraints-daemon.txt pyproject.toml

# The tests want the broker that production runs, and a real proxy. They are installed where that can be done unasked, else one line says how.
packages:
	@export PATH="$$PATH:/usr/sbin:/usr/local/sbin"; \
	if command -v mosquitto >/dev/null && command -v haproxy >/dev/null; then exit 0; fi; \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		echo "Installing Mosquitto and HAProxy from the system's packages ..."; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends mosquitto mosquitto-clients haproxy; } >/dev/null && exit 0; \
	fi; \
	echo "The tests need Mosquitto and HAProxy: apt-get install mosquitto mosquitto-clients haproxy (as root), or dnf or brew install mosquitto haproxy"; exit 1

clean: ## removes the environment and everything that was made
	@rm -rf $(VENV) build dist var *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
