# Two commands do everything: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input
PREFECT_PORT ?= 4200
MLFLOW_PORT ?= 5000

# Telemetry off, for everything that is started from here.
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_PORT MLFLOW_PORT

SUITE_OF_TESTS := $(BIN)/python -m pytest --ignore=tests/bench --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations=30

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test compose-test coverage lint format bench soak families study up down status clean
.DELETE_ON_ERROR:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.runtime ## create .venv and install the locked packages
setup-dev: $(VENV)/.dev

demo: $(VENV)/.runtime ## the main job: sources, transfer, few-shot targets, registered adapters, report
	@$(BIN)/dept run demo

test: export HF_HUB_OFFLINE := 1
test: $(VENV)/.dev ## every test (the bench apart)
	@$(SUITE_OF_TESTS)

coverage: export HF_HUB_OFFLINE := 1
coverage: $(VENV)/.dev ## every test, with branch coverage of every process; slower
	@$(SUITE_OF_TESTS) --cov --cov-report=term:skip-covered

lint: $(VENV)/.dev ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.dev ## let ruff lay out the code
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

bench: export HF_HUB_OFFLINE := 1
bench: $(VENV)/.dev ## measure speed against the alternatives (tests/bench); takes minutes and wants a quiet machine
	@$(BIN)/python -m pytest tests/bench -s --timeout=0

compose-test: ## build the image, start infra/compose.yaml, run a small plan on it; COMPOSE="docker compose" (10 minutes)
	@$(PYTHON) tests/containers/compose.py

soak: $(VENV)/.dev ## 4 workers, 200 trials, 20 kills, 5 stops, each server restarted once: each trial finished once (minutes)
	@$(BIN)/python -m tests.soak

families: export HF_HUB_OFFLINE := 1
families: $(VENV)/.dev ## try every model type of transformers, tiny: right or refused; writes dept/backbones/README.md (minutes)
	@$(BIN)/python -m tests.families

study: $(VENV)/.dev ## run the study into flows/studies (hours on 2 cores; a second call goes on where the first stopped)
	@$(BIN)/dept run few-shot-suite --results flows/studies

up: $(VENV)/.runtime ## start Prefect, MLflow and a worker here; PREFECT_PORT=4200 MLFLOW_PORT=5000
	@$(BIN)/dept up

down: $(VENV)/.runtime ## stop what `make up` started
	@$(BIN)/dept down

status: $(VENV)/.runtime ## say what runs: services, workers, trials
	@$(BIN)/dept status

clean: ## remove .venv and caches; keeps .dept, where the results are
	@test ! -x $(BIN)/dept || $(BIN)/dept down
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache htmlcov .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf *.egg-info

# The stamps make a second call install nothing. pip itself skips what is there, so a changed lock costs only the change.
$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $$($(PYTHON) --version 2>&1) is too old; Python 3.11 or newer is needed, name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "creating $(VENV) with $$($(PYTHON) --version 2>&1)"
	@$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make a virtual environment; install its venv module (Debian: apt-get install python3-venv)" >&2; rm -rf $(VENV); exit 2; }
	@touch $@

# deepspeed comes as source: its build asks torch, so it is installed after it and outside pip's isolated build.
# DS_BUILD_OPS=0: compile nothing now (CUDA kernels are built on first use, where there is a GPU).
$(VENV)/.runtime: requirements.lock requirements-data.lock pyproject.toml | $(VENV)/.python
	@echo "installing the locked packages into $(VENV) (a few minutes the first time)"
	@grep -v '^deepspeed==' requirements.lock > $(VENV)/requirements-first.txt
	@$(PIP) -r $(VENV)/requirements-first.txt
	@DS_BUILD_OPS=0 $(PIP) --no-deps --no-build-isolation $$(grep '^deepspeed==' requirements.lock)
	@$(PIP) --no-deps --no-build-isolation --editable .
	@$(PIP) --no-deps --requirement requirements-data.lock
	@touch $@

# few-bits: apart from site-packages, since transformers imports torchao at each load where it finds it.
$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "installing test tools into $(VENV)"
	@$(PIP) --no-deps --requirement requirements-dev.lock
	@$(PIP) --no-deps --upgrade --target $(VENV)/few-bits bitsandbytes==0.50.2 torchao==0.18.0 \
		|| echo "bitsandbytes and torchao cannot be had here: their test will skip; rm $(VENV)/.dev tries again"
	@touch $@
