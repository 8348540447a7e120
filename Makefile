# One command to set up, one to test: each target makes what it needs first (tools/bootstrap.py; 0.1 s when all is there).
#
#   make test ARGS="-k breaker -x"     ARGS goes to what the target runs
#   make test JOBS=0                   in one process, as a debugger needs it; otherwise two more than cores
#   make PYTHON=/path/to/python3.12    another interpreter

.DEFAULT_GOAL := help
ARGS =
# Two processes more than cores: for half of their time the tests of fleets wait for servers and for leases to end.
JOBS := $(shell expr $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1) + 2)

# The first interpreter that runs and is new enough.
ifndef PYTHON
PYTHON := $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$name; break; fi; done)
endif

# Compiled once, not by each of the some hundred processes that the tests start: those of the library are kept, and the
# tests' own, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE

BIN = .venv/bin
BOOTSTRAP = $(if $(PYTHON),$(PYTHON) tools/bootstrap.py,\
	echo 'No Python 3.11 or newer found. Install one, or name it: make PYTHON=/path/to/python3.12 ...' >&2; exit 1;)
WORKERS = -n $(JOBS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder# a page's blocks share names; order: conftest.py
PYTEST = -m pytest -q $(WORKERS)
# What runs on the other CPythons: the core's tests, without those whose answer is the same on each: they read the files of
# this tree (test_repository, test_twins, test_dashboards, test_no_false_alarms), see to it that the benchmarks start, or need
# the adapters (canary).
# Nor those about the tests' own servers and other kinds of servers, machines against the data of other systems, the searched
# model and its traces, and the proofs of fleets, a minute each.
SAME_ON_EACH = canary conformance http whatsapp test_benchmarks.py test_repository.py test_twins.py test_redis_fixture.py \
	core/test_no_false_alarms.py \
	fleet/test_deployments.py fleet/test_model.py fleet/test_replay.py fleet/test_prove.py telemetry/test_dashboards.py
# Their asserts are plain, without the values in the message: to compile them anew takes 10 s in each process.
CORE_TESTS = tests $(addprefix --ignore=tests/,$(SAME_ON_EACH))

.PHONY: help setup demo test prove-long prove-fleet prove-whatsapp schema dashboards docs lint format types coverage other-pythons check bench requirements dist
.PHONY: clean venv-base venv-test venv-lint venv-all venv-bench venv-others types-mypy types-pyright types-public

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: venv-all ## the environment of a contributor, in .venv

demo: venv-base ## messages sent through an API that fails: the story on the terminal (ARGS=--naive: without protection)
	@$(BIN)/python -m resilience_whatsapp.demo $(ARGS)

test: venv-test ## all tests, and the code of README and docs
	@$(BIN)/python $(PYTEST) $(ARGS)

prove-long: venv-test ## all tests, the long ones in full: 3 times the fuzzing, 5 times the load (tests/_cost.py)
	@PROVE_LONG=1 $(BIN)/python $(PYTEST) $(ARGS)

schema: venv-base ## write the JSON Schema of the configuration anew, after a change of options
	@$(BIN)/python -m resilience_core.config._schema

dashboards: venv-base ## write the Grafana dashboard and the alert rules anew, after a change of metrics
	@$(BIN)/python -m tools.dashboards

docs: venv-test ## only the code of README and docs
	@$(BIN)/python $(PYTEST) README.md docs $(ARGS)

lint: venv-lint ## ruff: rules and format
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check || { $(BIN)/ruff format --diff; exit 1; }

format: venv-lint ## let ruff repair what it can
	@$(BIN)/ruff check --quiet --fix || true
	@$(BIN)/ruff format --quiet

types: venv-all ## mypy --strict, pyright, and every public symbol typed
	@$(MAKE) --no-print-directory -j3 types-mypy types-pyright types-public # each of them uses one core

types-mypy:
	@$(BIN)/mypy --strict
types-pyright:
	@$(BIN)/pyright
types-public:
	@$(BIN)/python tools/verify_types.py resilience_core

coverage: venv-test ## all tests under coverage: every branch of the core, 95 % of the adapters
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run $(PYTEST) $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --include='resilience_core/*' --fail-under=100
	@$(BIN)/coverage report --include='adapters/*' --fail-under=95

other-pythons: venv-test ## the core's tests on the other CPythons of this machine
	@$(BIN)/python tools/other_pythons.py -q --assert=plain $(WORKERS) $(CORE_TESTS)

check: ## all that must be green before a change lands
	@$(MAKE) --no-print-directory -j2 venv-all venv-others # a set-up uses one core
	@$(MAKE) --no-print-directory lint types coverage other-pythons

bench: venv-bench ## benchmarks against hand-written code and other libraries
	@$(BIN)/python -m benchmarks $(ARGS)

prove-fleet: venv-test ## 64 processes and a real Redis against each promise of a fleet (ARGS="--bars 6,8", --sizing, --help)
	@$(BIN)/python -m proofs.fleet $(ARGS)

prove-whatsapp: venv-test ## 20,000 messages through everything that the API can do wrong (ARGS="--parts cost", PLANT=name, --help)
	@$(BIN)/python -m proofs.whatsapp $(ARGS)

requirements: ## resolve and lock anew after a change of dependencies (needs uv)
	@$(PYTHON) tools/requirements.py

dist: venv-base ## wheels and sdists of the three distributions, in dist/
	@for project in . adapters/http adapters/whatsapp; do \
		$(BIN)/python -m build --no-isolation --outdir dist $$project >dist.log 2>&1 || { cat dist.log; rm dist.log; exit 1; }; \
	done; rm dist.log; ls dist

clean: ## remove what these targets make
	@rm -rf .venv .venv-3.* .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage .coverage.* build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv-base:
	@$(BOOTSTRAP) base
venv-test:
	@$(BOOTSTRAP) base test clients
	@$(BIN)/python tools/redis_server.py --all >/dev/null || true  # without one, the tests that need it fail and say so
venv-lint:
	@$(BOOTSTRAP) base lint
venv-all:
	@$(BOOTSTRAP) base test clients lint
venv-others:
	@$(if $(PYTHON),$(PYTHON) tools/other_pythons.py --set-up,$(BOOTSTRAP))
venv-bench:
	@$(BOOTSTRAP) base test bench
