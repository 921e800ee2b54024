# `make demo` and `make test` set up what they need in .venv and run. Needs Python 3.11 or later, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# What a report compares, where the runs are and where it goes: make report EXP=e6 FROM=wandb OUT=out/e6
EXP ?= e6
FROM ?= wandb
OUT ?= out/$(EXP)
FILE ?= sweeps/smoke.yaml
BENCH ?= out/bench.json

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-core lint format report sweep agent docs bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'
	@echo "  e.g.  make report EXP=e6 FROM=runs OUT=out/e6   (FROM: a folder of W&B files, of run folders, or wandb:ENTITY/PROJECT)"

setup: $(VENV)/.installed ## make .venv with everything a run needs

demo: $(VENV)/.installed ## train the two smoke arms on embedded images, tracked offline, and write their report (about 5 minutes on two idle cores)
	@echo "Training e5 (constant weighting) and e6 (Min-SNR) side by side, one thread each"
	@$(MAKE) --no-print-directory -j2 .demo-e5 .demo-e6
	$(BIN)/ddpm report e6 --from wandb --where study_name=smoke --where out_dir=runs/demo --out out/demo
	@echo "Open the report above in a browser. Browse the runs in the terminal: $(BIN)/wandb leet ./wandb"

# Two processes of one thread finish sooner than one after the other with two: small layers share out badly.
.PHONY: .demo-e5 .demo-e6
.demo-e5 .demo-e6: .demo-%:
	@WANDB_MODE=offline WANDB_DIR=. OMP_NUM_THREADS=1 TQDM_POSITION=$(if $(filter e6,$*),1,0) $(BIN)/ddpm train configs/smoke/$*.yaml --clean_run=true --out_dir=runs/demo

# Two to a core: many tests wait for processes that they start, or for W&B's. They are given out one by one, as the first
# of them take longest (tests/conftest.py).
test: $(VENV)/.installed-dev ## run the tests, on all cores (about 8 minutes on two, after installation)
	$(BIN)/python -m pytest --maxschedchunk 1 --numprocesses $$($(BIN)/python -c 'import os; print(min(8, 2 * (os.cpu_count() or 1)))')

# What computes, by the names of its tests. `default` are the kernels for any processor: sums in another order, and other
# last bits of a sine, than with vector instructions.
CORE := hessian samplers schedule prediction loss unet ema evenly distances kernel reconstruction known_answer data
test-core: $(VENV)/.installed-dev ## run the tests of the numerical core once more, as on another processor (about a minute on two cores)
	ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 $(CORE:%=tests/ddpm/test_%*.py) tests/reports/test_intervals.py

lint: $(VENV)/.installed-dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

report: $(VENV)/.installed ## compare an experiment with its baseline: EXP=e6 FROM=wandb OUT=out/e6 PUBLISH=ENTITY/PROJECT
	$(BIN)/ddpm report $(EXP) --from $(FROM) --out $(OUT) $(if $(PUBLISH),--publish $(PUBLISH))

# `wandb agent` starts what the sweep names by PATH.
sweep: $(VENV)/.installed ## run a sweep file's points here, without a server: FILE=sweeps/smoke.yaml WORKERS=2 GPUS=0,1
	$(BIN)/ddpm sweep $(FILE) $(if $(WORKERS),--workers $(WORKERS)) $(if $(GPUS),--gpus $(GPUS))

agent: $(VENV)/.installed ## work on a sweep of W&B's server: ID=ENTITY/PROJECT/ID, as `wandb sweep FILE` prints it
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/wandb agent --forward-signals $(ID)

docs: $(VENV)/.installed ## write docs/metrics.md again from its table
	$(BIN)/ddpm metrics > docs/metrics.md

bench: $(VENV)/.installed-bench ## measure all that docs/speed.md claims, on a machine that does nothing else (an hour): BENCH=out/bench.json
	$(BIN)/python -m benchmarks --out $(BENCH)

clean: ## remove .venv and caches; runs, wandb and out stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build *.egg-info

# --- set-up ---

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1). Point to one: make PYTHON=python3.12 demo"; exit 2; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: install its venv package (Debian: apt install python3-venv)."; exit 2; }

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing the project and its dependencies into $(VENV). torch comes with its CUDA libraries where the registry has"
	@echo "them: up to 6 GB and a few minutes, once."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@$(MAKE) --no-print-directory .check-torch
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.installed
	@echo "Adding the development tools (pytest, ruff, mypy)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.installed-bench: pyproject.toml | $(VENV)/.installed-dev
	@echo "Adding the libraries that are measured beside this one"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@touch $@

# A torchvision that was built for another torch installs without a word and fails at import.
.PHONY: .check-torch
.check-torch:
	@$(BIN)/python -c 'import torch, torchvision; torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5); print(f"torch {torch.__version__} with torchvision {torchvision.__version__}, GPU: {torch.cuda.is_available()}")' || { echo "The torch and torchvision in $(VENV) do not belong together. Remove it with 'make clean' and run again; if an index or a file of your pip configuration forces one of them, install the pair that pyproject.toml names."; exit 2; }
