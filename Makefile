# ShopFDS: `make up` brings everything to life, `make test` proves it. `make help` lists the rest.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ifdef ENGINE
export SHOPFDS_ENGINE := $(ENGINE)
endif
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(BIN)/shopfds: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "[FAIL] Python 3.11 or newer is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	  package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	  echo "installing $$package"; rm -rf $(VENV); \
	  if [ "$$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi; \
	  $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$package >/dev/null && \
	  $(PYTHON) -m venv $(VENV); }
	@echo "installing ShopFDS into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(BIN)/shopfds ## make .venv and install what the engine needs: ENGINE=docker, ENGINE=local
	@$(BIN)/shopfds setup

up: setup ## set up, start, initialize, migrate and seed everything; ENGINE=docker or local chooses
	@$(BIN)/shopfds up

dev: up ## the same as up

migrate: $(BIN)/shopfds ## bring the schema to the latest revision
	@$(BIN)/shopfds migrate

seed: $(BIN)/shopfds ## fill an empty database; ARGS="--append" adds to a filled one
	@$(BIN)/shopfds seed $(ARGS)

reset-db: $(BIN)/shopfds ## drop all tables and make the latest schema; ARGS="--yes" does not ask
	@$(BIN)/shopfds reset-db $(ARGS)

# Tests run on both engines. What Docker needs is got where that asks nobody for a password; in CI it must be there.
test: $(BIN)/shopfds ## lint, types, import rules, and all tests on real servers, on both engines
	@$(BIN)/shopfds --engine local setup
	@if [ "$$(id -u)" = 0 ] || [ -n "$$CI" ] || docker version >/dev/null 2>&1; then \
	  $(BIN)/shopfds --engine docker setup --no-start || { [ -z "$$CI" ] && echo "[SKIP] tests on docker, for want of it" >&2; }; \
	  else echo "[SKIP] tests on docker: no daemon answers, and getting one needs root" >&2; fi
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/pytest $(ARGS)

bench: setup ## ratios against the same work by hand, in one table
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## stop everything, remove data, secrets, rendered files and .venv, of both engines; ARGS="--yes" does not ask
	@if [ -x $(BIN)/shopfds ]; then $(BIN)/shopfds down --volumes --everywhere $(ARGS); \
	  elif [ -d .shopfds ]; then echo "[FAIL] .venv is gone, but .shopfds is there: make setup, then make clean" >&2; exit 1; fi
	@plugin="$${DOCKER_CONFIG:-$$HOME/.docker}/cli-plugins/docker-compose"; \
	  case "$$(readlink "$$plugin")" in "$(CURDIR)/$(VENV)/"*) rm -f "$$plugin" ;; esac
	@rm -rf infrastructure .shopfds $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help setup up dev migrate seed reset-db test bench clean
