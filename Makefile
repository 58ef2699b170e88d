# Each target does all its own set-up: `make demo` or `make test` in a fresh clone is enough.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh
unexport PYTHONDONTWRITEBYTECODE  # else each worker of the tests compiles every test, and each process the whole program
.PHONY: help setup demo demo-fleet test lint check docs bench-timing soak crash fleet-bugs fleet-figures bugs image bench lock dist sbom clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CANDIDATES := $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14 python
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

help: ## Print this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: $(READY) ## Create .venv and install the package with its tools; again only when pyproject.toml changed

demo: $(READY) ## Watch the service poll a simulated HubSpot; no token needed
	$(BIN)/poller demo

demo-fleet: $(READY) ## Watch three replicas on one PostgreSQL; one is killed on the way, and the sums balance
	$(BIN)/python -m campaign.fleet_demo

test: $(READY) ## Run the tests, on every core
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(READY) ## Everything of `check` except the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test ## Lint, format, types, layers, tests: exactly what CI runs

docs: $(READY) ## Regenerate docs/reference/ from the code
	$(BIN)/python -m docs.make_reference

bench-timing: $(READY) ## Compare when-to-poll policies on simulated accounts; writes docs/timing-table.md and timing.svg
	$(BIN)/python -m bench.timing
	$(BIN)/python -m bench.timing --goals

soak: $(READY) ## Drive both stores against their model for SOAK_STEPS steps (5000 each); SOAK_SEED repeats a run
	SOAK_STEPS=$${SOAK_STEPS:-5000} $(BIN)/pytest -q -s tests/store/test_machine.py tests/store/test_rows_machine.py

crash: $(READY) ## Kill and fail the real process at every system call, and cut its power; needs strace; takes hours
	$(BIN)/python -m campaign.crash --points all --tasks 30
	$(BIN)/python -m campaign.crash --double 200 --random-kills 300
	$(BIN)/python -m campaign.crash --errors all --tasks 4
	$(BIN)/python -m campaign.crash --points all --random-kills 30 --big-tasks 2000 --targets jsonl postgres
	$(BIN)/python -m campaign.crash --state postgres --points all --double 50 --random-kills 30 --big-tasks 2000 --targets jsonl webhook
	$(BIN)/python -m campaign.power --cuts 200 --recordings 4
	$(BIN)/python -m campaign.starts --random-kills 300 --calls 1000
	$(BIN)/python -m campaign.fleet --trials 20 --seconds 120 --every 2 --replicas 5
	$(BIN)/python -m campaign.fleet --trials 10 --seconds 20 --kinds failover

fleet-bugs: $(READY) ## Plant bugs in a fleet of real processes: its campaign must find each by what it sees from outside
	$(BIN)/python -m campaign.fleet --find

fleet-figures: $(READY) ## How fast a fleet of real processes is, with the goals beside: after a kill, at a restart, at rest
	$(BIN)/python -m campaign.fleet.figures

image: $(READY) ## Build by the Dockerfile's steps without Docker, and run the result as the image's user; needs root
	$(BIN)/python -m campaign.image

bugs: $(READY) ## Plant each known bug in a copy of the tree: a test must fail each time
	$(BIN)/python -m campaign.bugs

bench: $(READY) ## Measure what a poll costs, beside other clients; feeding, a million tasks, start-up; half an hour
	$(PIP) install --editable '.[bench]'
	$(BIN)/python -m bench polls
	$(BIN)/python -m bench feeding
	$(BIN)/python -m bench scale
	$(BIN)/python -m bench startup
	$(BIN)/python -m bench.imports
	$(BIN)/python -m bench.import_runs

lock: $(READY) ## Pin the image's dependencies and its build backend, with hashes
	$(PIP) install 'uv>=0.9'
	rm -f requirements.lock requirements-build.lock
	$(BIN)/uv pip compile pyproject.toml --extra postgres --extra speed --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements.lock
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' | \
		$(BIN)/uv pip compile - --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements-build.lock

dist: $(READY) ## Build the distributions into dist/ and check them; nothing is uploaded
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

sbom: $(READY) ## Write dist/sbom.cdx.json: what the image contains, as CycloneDX, from the lock
	mkdir -p dist
	$(BIN)/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --mc-type application \
		--output-reproducible --output-format JSON --output-file dist/sbom.cdx.json

clean: ## Remove the environment and every cache
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(READY): pyproject.toml
	@if ! $(BIN)/python -c '' 2>/dev/null; then \
		for python in $(CANDIDATES); do \
			if "$$python" -c '$(USABLE)' >/dev/null 2>&1; then found="$$python"; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "No Python >= 3.11 with venv found (tried: $(CANDIDATES))." >&2; \
			echo "Install one (Debian: apt-get install python3 python3-venv), or run make PYTHON=/path/to/python3" >&2; \
			exit 1; \
		fi; \
		echo "$$found -m venv $(VENV)"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	$(PIP) install --no-compile --editable '.[dev]'  # compiling all takes half of the time, and half of it is never imported
	@touch $@
