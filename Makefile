# Each target in two words; `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
# One more than there are cores: much of what the tests do is wait, for servers and for what may not happen.
JOBS ?= $(shell expr 1 + $$(env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 1))
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

help:  ## list targets
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# The environment: `installed` is enough to run, `develop` adds what tests and checks need.
$(VENV)/pip: 
	$(PYTHON) -c 'import sys; sys.exit("Need Python 3.11 or newer; got " + sys.version.split()[0] + ". Set PYTHON=…") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade -c constraints.txt pip
	@touch $@

$(VENV)/installed: $(VENV)/pip pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[agent,collector]' --group examples
	@touch $@

$(VENV)/develop: $(VENV)/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[agent,collector,grafana]' --group dev
	@touch $@

install: $(VENV)/installed  ## the environment

demo: $(VENV)/installed  ## see it (KEEP=1 keeps the page up)
	@$(BIN)/python examples/demo.py $(if $(KEEP),--keep)

servers:  ## real servers (Debian packages, where allowed)
	@tests/install_servers.sh

test: $(VENV)/develop servers  ## all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

check: $(VENV)/develop  ## format, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m dashboards.build --check

format: $(VENV)/develop  ## format code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

dashboards: $(VENV)/develop  ## build boards
	$(BIN)/python -m dashboards.build

bench: $(VENV)/develop  ## measure overhead
	$(BIN)/python benchmarks/overhead.py

peers: $(VENV)/develop  ## measure beside peers
	$(BIN)/python -m pip install -q -c constraints.txt --group peers
	$(BIN)/python benchmarks/estimators.py

phases: $(VENV)/develop  ## score detection
	$(BIN)/python benchmarks/detection.py

load: $(VENV)/develop  ## measure load
	$(BIN)/python benchmarks/load.py

soak: $(VENV)/develop  ## endless faults
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py

power-cut: $(VENV)/develop  ## cut power
	$(BIN)/python benchmarks/power_cut.py

fuzz: $(VENV)/develop  ## fuzz pipeline
	$(BIN)/python -m pip install -q -c constraints.txt --group fuzz
	@mkdir -p .fuzz
	cd .fuzz && ../$(BIN)/python ../tests/fuzz/pipeline.py . -max_len=512 -max_total_time=60

clean:  ## remove everything made
	rm -rf $(VENV) .accelerator .demo .fuzz .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.PHONY: help install demo servers test check format dashboards bench peers phases load soak power-cut fuzz clean
