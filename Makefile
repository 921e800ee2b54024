# `make demo` and `make test` set up what they need in .venv and run. Needs Python 3.11 or later, pip and make.
#   LATEST=1       installs the newest versions that pyproject.toml allows; LOWEST=1 the lowest. Without either, the tested ones.
#   SYSTEM_SITE=1  lets .venv see the system's packages, so that an image's own torch (Colab, a cluster, a container) is used.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VERSIONS := $(if $(LATEST),latest,$(if $(LOWEST),lowest,tested))
# `make lock` keeps these: torch decides the bits of a run, and is changed on purpose.
LOCK_HELD ?= torch==2.14.1 torchvision==0.29.1
LOCKED := 3.11 3.12 3.13

# What a report compares, where the runs are and where it goes: make report EXP=e6 FROM=wandb OUT=out/e6
EXP ?= e6
FROM ?= wandb
OUT ?= out/$(EXP)
FILE ?= sweeps/smoke.yaml
BENCH ?= out/bench.json

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-core mutate lint format report dashboard sweep agent docs bench lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'
	@echo "  e.g.  make report EXP=e6 FROM=runs OUT=out/e6   (FROM: a folder of W&B files, of run folders, or wandb:ENTITY/PROJECT)"

setup: $(VENV)/.installed ## make .venv with everything a run needs

demo: $(VENV)/.installed ## train the two smoke arms on embedded images, tracked offline, and write their report (about 6 minutes on two idle cores)
	@echo "Training e5 (constant weighting) and e6 (Min-SNR) side by side, one thread each"
	@$(MAKE) --no-print-directory -j2 .demo-e5 .demo-e6
	$(BIN)/ddpm report e6 --from wandb --where study_name=smoke --where out_dir=runs/demo --out out/demo
	@echo "Open the report above in a browser. Look at the runs there too, also while they train: $(BIN)/ddpm dashboard e6 --from runs/demo"

# Two processes of one thread finish sooner than one after the other with two: small layers share out badly.
.PHONY: .demo-e5 .demo-e6
.demo-e5 .demo-e6: .demo-%:
	@WANDB_MODE=offline WANDB_DIR=. OMP_NUM_THREADS=1 TQDM_POSITION=$(if $(filter e6,$*),1,0) $(BIN)/ddpm train configs/smoke/$*.yaml --clean_run=true --out_dir=runs/demo

# Two to a core: many tests wait for processes that they start, or for W&B's. They are given out one by one, as the first
# of them take longest (tests/conftest.py).
test: $(VENV)/.installed-dev ## run the tests, on all cores (about 12 minutes on two, after installation)
	$(BIN)/python -m pytest --maxschedchunk 1 --numprocesses $$($(BIN)/python -c 'import os; print(min(8, 2 * (os.cpu_count() or 1)))')

# The tests of what computes, but those against other libraries. `default` are the kernels for any processor: sums in
# another order, and other last bits of a sine, than with vector instructions.
CORE := $(filter-out %_peers.py,$(wildcard tests/curvature/test_hessian_*.py tests/diffusion/test_*.py)) tests/curvature/test_draws.py tests/models tests/data \
	$(foreach name,distances floor kid_prdc loss_by_noise reconstruction sampler_check,tests/evaluation/test_$(name).py) tests/test_evenly.py tests/reports/test_intervals.py
test-core: $(VENV)/.installed-dev ## run the tests of the numerical core once more, as on another processor (about a minute on two cores)
	ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 $(CORE)

mutate: $(VENV)/.installed-mutate ## which small edits of the product does no test notice: ROOM=diffusion SAMPLE=12 SEED=0 WORKERS=2 AGAIN=1
	$(BIN)/python tests/mutation/mutate.py $(ROOM) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED)) \
		$(if $(WORKERS),--workers $(WORKERS)) $(if $(AGAIN),--again)

lint: $(VENV)/.installed-dev ## ruff, mypy, and that no import goes up a floor
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

report: $(VENV)/.installed ## compare an experiment with its baseline: EXP=e6 FROM=wandb OUT=out/e6 PUBLISH=ENTITY/PROJECT
	$(BIN)/ddpm report $(EXP) --from $(FROM) --out $(OUT) $(if $(PUBLISH),--publish $(PUBLISH))

dashboard: $(VENV)/.installed ## look at runs in the browser, while they train and after: EXP=e6 FROM=runs EXPORT=out/dashboard
	$(BIN)/ddpm dashboard $(EXP) --from $(FROM) $(if $(EXPORT),--export $(EXPORT))

# `wandb agent` starts what the sweep names by PATH.
sweep: $(VENV)/.installed ## run a sweep file's points here, without a server: FILE=sweeps/smoke.yaml WORKERS=2 GPUS=0,1
	$(BIN)/ddpm sweep $(FILE) $(if $(WORKERS),--workers $(WORKERS)) $(if $(GPUS),--gpus $(GPUS))

agent: $(VENV)/.installed ## work on a sweep of W&B's server: ID=ENTITY/PROJECT/ID, as `wandb sweep FILE` prints it
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/wandb agent --forward-signals $(ID)

docs: $(VENV)/.installed ## write docs/metrics.md again from its table
	$(BIN)/ddpm metrics > docs/metrics.md

bench: $(VENV)/.installed-bench ## measure all that docs/speed.md claims, on a machine that does nothing else (an hour): BENCH=out/bench.json
	$(BIN)/python -m benchmarks --out $(BENCH)

lock: $(VENV)/.installed-dev ## find the newest versions again and write constraints/; LOCK_HELD stays as it is
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo $(LOCK_HELD) | tr ' ' '\n' > $(VENV)/held.txt
	@$(foreach version,$(LOCKED),$(call compile,$(version),,--all-extras --constraint $(VENV)/held.txt) &&) true
	@$(foreach version,$(LOCKED),$(call compile,$(version),lowest-,--extra dev --extra judge --resolution lowest-direct) &&) true
	@git diff --stat -- constraints

# $(call compile,PYTHON,PREFIX,OPTIONS): names and versions alone. Wheels alone: an old source may not build.
compile = $(BIN)/uv pip compile pyproject.toml --quiet --upgrade --no-header --no-annotate --only-binary :all: \
	--python-version $(1) --python-platform x86_64-unknown-linux-gnu --output-file constraints/$(2)py$(subst .,,$(1)).txt $(3)

clean: ## remove .venv and caches; runs, wandb and out stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build *.egg-info

# --- set-up ---

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1). Point to one: make PYTHON=python3.12 demo"; exit 2; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(if $(SYSTEM_SITE),--system-site-packages) $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: install its venv package (Debian: apt install python3-venv)."; exit 2; }

# Written again only if other versions are asked for than those that are installed.
$(VENV)/.constraints: FORCE | $(VENV)/bin/python
	@$(if $(SYSTEM_SITE),grep -qs 'include-system-site-packages = true' $(VENV)/pyvenv.cfg || { echo "$(VENV) was made without the system's packages. Run 'make clean' and then this again."; exit 2; })
	@$(BIN)/python constraints/choose.py $(VERSIONS) > $@.new
	@cmp -s $@ $@.new && rm $@.new || mv $@.new $@
FORCE:

# $(call install,EXTRAS): the project, in the chosen versions. pip compiles one file at a time, which takes half of an
# installation; compileall uses all cores, and passes over the packages' own tests (a fifth). Some packages hold
# templates that are no Python: it goes on past them.
install = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint $(VENV)/.constraints \
	$(if $(LATEST),--upgrade --upgrade-strategy eager) --editable '.$(1)' && \
	{ $(BIN)/python -m compileall -q -j 0 -x '/tests?/' $(VENV)/lib > $(VENV)/compile.log 2>&1 || true; }

$(VENV)/.installed: pyproject.toml $(VENV)/.constraints
	@echo "Installing the project and its dependencies into $(VENV), in the $(VERSIONS) versions. torch comes with its CUDA"
	@echo "libraries where the registry has them: up to 6 GB and a few minutes, once."
	@$(call install)
	@$(MAKE) --no-print-directory .check-torch
	@touch $@

# In one step with the above if neither is there: pip takes a while to begin.
$(VENV)/.installed-dev: pyproject.toml $(VENV)/.constraints
	@echo "Installing the project with its development tools (pytest, ruff, mypy) into $(VENV), in the $(VERSIONS) versions."
	@echo "torch comes with its CUDA libraries where the registry has them: up to 6 GB and a few minutes, once."
	@$(call install,[dev$(comma)judge])
	@$(MAKE) --no-print-directory .check-torch
	@touch $(VENV)/.installed $@

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	@echo "Adding the libraries that are measured beside this one"
	@$(call install,[dev$(comma)judge$(comma)bench])
	@touch $@

$(VENV)/.installed-mutate: $(VENV)/.installed-dev
	@echo "Adding the tool that edits the product"
	@$(call install,[dev$(comma)judge$(comma)mutate])
	@touch $@

comma := ,

# A torchvision that was built for another torch installs without a word and fails at import.
.PHONY: .check-torch
.check-torch:
	@$(BIN)/python -c 'import torch, torchvision; torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5); print(f"torch {torch.__version__} with torchvision {torchvision.__version__}, GPU: {torch.cuda.is_available()}")' || { echo "The torch and torchvision in $(VENV) do not belong together. Remove it with 'make clean' and run again; if an index or a file of your pip configuration forces one of them, install a pair that belongs together (torch 2.9 goes with torchvision 0.24, 2.10 with 0.25 and so on)."; exit 2; }
