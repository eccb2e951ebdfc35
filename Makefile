# Two commands are all that a fresh clone needs: `make demo` and `make test`. Only Python 3.11 or newer is assumed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
SOAK_PATRONI = $(if $(filter 0,$(shell id -u)),/var/lib/fieldgate,build)/patroni
.PHONY: help env docs demo test matrix check audit bench bench-peers patroni soak fuzz campaign interop mutate format constraints packages clean

PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3 python; do \
	"$$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$name" && break; done)
VENV := .venv
BIN := $(VENV)/bin
# on a terminal it is seen that something goes on
INSTALL = quiet=--quiet; if [ -t 1 ]; then quiet=; fi; $(BIN)/python -m pip install $$quiet
PYTEST_ARGS ?=
BENCH_DIR ?= var/bench
SOAK_DIR ?= var/soak
SEEDS ?= 1-10
MINUTES ?= 6
PARALLEL ?= 1
CAMPAIGN_ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# An environment that forbids to keep compiled modules has each of hundreds of processes compile a thousand of them.
export PYTHONDONTWRITEBYTECODE =

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

env: $(VENV)/.complete ## the environment in .venv, exact versions, each checked by its hash

$(VENV)/.complete: constraints.txt pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer with venv is needed (Debian and Ubuntu: apt-get install python3 python3-venv)"; exit 1; fi
	@echo "Installing into $(VENV) ..."
	@[ -x $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV)
	@$(INSTALL) --require-hashes --no-deps --requirement constraints.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

demo: env ## broker, database, gateway, a fleet and a demonstration CMMS in one terminal
	@exec $(BIN)/fieldgate demo

# Half of what the tests do is wait for real brokers, databases and time-outs: three of them at once on two cores.
test: packages env build/docs/.complete ## the whole suite, on real brokers and a real database
	@$(BIN)/python -m tests.suite -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

MATRIX_ARGS ?=
matrix: packages ## a part of the suite (MATRIX_ARGS=tests: all of it) with every interpreter here, as this user and as an ordinary one
	@tests/matrix $(MATRIX_ARGS)

check: env ## format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# The advisories come from the package index of the day; an old copy of them would call what is vulnerable clean. Without them nothing is said to be.
audit: env ## asks the package index for known vulnerabilities of every pinned version
	@[ -x build/audit/bin/pip-audit ] || { "$(PYTHON)" -m venv build/audit && build/audit/bin/pip install --quiet pip-audit; } || \
		{ echo "not audited: pip-audit cannot be installed from the package index"; exit 1; }
	@said=$$(build/audit/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes --timeout 10 --requirement constraints.txt 2>&1) && \
		{ echo "audited: $$(grep -c == constraints.txt) pinned versions, none with a known vulnerability"; exit 0; }; \
	if grep -q "^Found .* known vulnerabilit" <<<"$$said"; then echo "$$said"; \
	else echo "not audited: this package index gives no advisories ($$(tail -n 1 <<<"$$said" | cut -c 1-120))"; fi; exit 1

bench: packages env ## measures ingest beside other consumers, sync, and the API during ingest; JSON in var/bench
	@mkdir -p $(BENCH_DIR)
	@$(BIN)/fieldgate bench ingest --peers --json $(BENCH_DIR)/ingest.json
	@$(BIN)/fieldgate bench sync --json $(BENCH_DIR)/sync.json
	@$(BIN)/fieldgate bench api --json $(BENCH_DIR)/api.json

PEERS ?=
bench-peers: packages env ## Fieldgate and its peers in one run (PEERS="fieldgate bento": some of them): backlog, live load, 20 SIGKILLs, a restart of the database; then docs/results.md
	@PYTHON=$(abspath $(BIN)/python) benchmarks/beside/get
	@$(BIN)/python -m benchmarks.beside.run $(if $(PEERS),--only $(PEERS)) --json benchmarks/results/peers.json
	@$(BIN)/python -m benchmarks.results

# As root PostgreSQL runs under an account of its own, and so does Patroni: where that account gets to, for the system's interpreter.
patroni: ## Patroni and etcd for its soak test, beside what is installed; without them the test is skipped
	@python=/usr/bin/python3; [ -x $$python ] || python="$(PYTHON)"; \
	[ -d $(SOAK_PATRONI) ] || "$(PYTHON)" -m pip --python $$python install --quiet --target $(SOAK_PATRONI) 'patroni[etcd3]' 'psycopg[binary]' || echo "Patroni could not be had: its test is skipped"
	@if ! command -v etcd >/dev/null && [ ! -x build/etcd/usr/bin/etcd ] && command -v apt-get >/dev/null; then \
		mkdir -p build; folder=$$(mktemp -d); chmod 755 "$$folder"; \
		{ cd "$$folder" && { apt-get download -qq etcd-server || { apt-get update -qq && apt-get download -qq etcd-server; }; } && dpkg -x etcd-server_*.deb "$(CURDIR)/build/etcd"; } >/dev/null 2>&1 \
			|| echo "etcd could not be had: its test is skipped"; \
		rm -rf "$$folder"; \
	fi

soak: packages env patroni ## the long fault tests, three short seeds of the campaign among them
	@$(BIN)/python -m pytest -m soak --timeout 7200 $(PYTEST_ARGS)

# atheris beside what is installed: no test of every day needs it, and it has wheels for few interpreters.
FUZZ_DIR ?= var/fuzz
RUNS ?= 1000000
fuzz: packages env ## RUNS=1000000 inputs that follow the code, through every decoder and sources of any rules; what fails is left in var/fuzz
	@[ -d build/atheris ] || $(BIN)/python -m pip install --quiet --no-deps --target build/atheris 'atheris>=3,<4'
	@mkdir -p $(FUZZ_DIR)
	@PYTHONPATH=build/atheris $(BIN)/python -m tests.soak.fuzz --runs $(RUNS) $(FUZZ_DIR)

campaign: packages env ## the oracle campaign: SEEDS=1-10 MINUTES=6 PARALLEL=1; reports in var/soak
	@mkdir -p $(SOAK_DIR)
	@$(BIN)/python -m tests.soak.campaign --seeds $(SEEDS) --minutes $(MINUTES) --parallel $(PARALLEL) --dir $(SOAK_DIR) --json $(SOAK_DIR)/report.json $(CAMPAIGN_ARGS)

BROKERS ?=
MESSAGES ?= 100000
interop: packages env ## what Fieldgate needs of a broker, against every broker that can be had here, killed in the middle; then docs/brokers.md
	@tests/interop/get
	@$(BIN)/python -m tests.interop.run $(BROKERS) --messages $(MESSAGES) --json tests/interop/result.json
	@$(BIN)/python -m tests.interop.page

docs: build/docs/.complete ## the documentation as a site in build/site, every link of it checked
	@NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --strict --quiet --config-file website/mkdocs.yml
	@echo "The documentation is in build/site/index.html"

build/docs/.complete: website/constraints.txt
	@[ -x build/docs/bin/python ] || "$(PYTHON)" -m venv build/docs
	@build/docs/bin/python -m pip install --quiet --require-hashes --no-deps --requirement website/constraints.txt
	@touch $@

# A mutation is one small change of the code; one that no test notices is a test to write. By default the rooms that
# decide, in what changed since BASE, for an hour at most; MODULES="gateway.model*" takes all of them.
BASE ?= $(shell git rev-list -1 --before='7 days ago' HEAD)
MODULES ?= $(shell git diff --name-only $(if $(BASE),$(BASE),HEAD) -- 'gateway/model/*.py' | sed -e 's,/,.,g' -e 's,.py$$,*,')
mutate: env ## changes the code of gateway/model one spot at a time and shows what no test notices
	@[ -n "$(MODULES)" ] || { echo "Nothing in gateway/model changed; MODULES='gateway.model*' takes all of it"; exit 0; }
	@mkdir -p var && { timeout --signal=INT 3600 $(BIN)/mutmut run $(MODULES) >var/mutate.log 2>&1 || true; }
	@$(BIN)/mutmut results

format: env ## rewrites the sources in the project's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# Existing pins are kept while they fit pyproject.toml; delete constraints.txt first to move every version.
RESOLVE = build/resolver/bin/pip-compile --quiet --generate-hashes --all-build-deps --allow-unsafe --strip-extras --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host
constraints: ## resolves pyproject.toml again into constraints.txt and constraints-daemon.txt (what the image installs), and what the site is made with
	@[ -x build/resolver/bin/pip-compile ] || { "$(PYTHON)" -m venv build/resolver && build/resolver/bin/pip install --quiet pip-tools; }
	@$(RESOLVE) --all-extras --output-file constraints.txt pyproject.toml
	@cp constraints.txt constraints-daemon.txt
	@$(RESOLVE) --output-file constraints-daemon.txt pyproject.toml
	@$(RESOLVE) --output-file website/constraints.txt website/requirements.in

# The tests want the broker that production runs, and a real proxy. They are installed where that can be done unasked, else one line says how.
# promtool, which checks the alert rules, is taken out of its package: installing that would start a Prometheus. Without it those tests are skipped.
packages:
	@export PATH="$$PATH:/usr/sbin:/usr/local/sbin"; \
	apt() { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; }; \
	if ! { command -v mosquitto && command -v haproxy; } >/dev/null; then \
		if apt; then \
			echo "Installing Mosquitto and HAProxy from the system's packages ..."; \
			{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends mosquitto mosquitto-clients haproxy; } >/dev/null || true; \
		fi; \
		if ! { command -v mosquitto && command -v haproxy; } >/dev/null; then \
			echo "The tests need Mosquitto and HAProxy: apt-get install mosquitto mosquitto-clients haproxy (as root), or dnf or brew install mosquitto haproxy"; exit 1; \
		fi; \
	fi; \
	if ! command -v promtool >/dev/null && apt; then \
		folder=$$(mktemp -d); chmod 755 "$$folder"; \
		{ cd "$$folder" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } && dpkg -x prometheus_*.deb . && install -m 755 usr/bin/promtool /usr/local/bin/; } >/dev/null 2>&1 \
			|| echo "promtool could not be had: its tests are skipped"; \
		rm -rf "$$folder"; \
	fi; \
	browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null; \
	if ! browser && apt; then \
		echo "Installing Chromium from the system's packages ..."; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1 || true; \
	fi; \
	browser || echo "Chromium could not be had: the tests in a browser are skipped (as root: apt-get install chromium)"

clean: ## removes the environment and everything that was made
	@rm -rf $(VENV) build dist var *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache mutants
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
