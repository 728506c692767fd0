# The two commands of the README are `make reproduce` and `make test`; each sets up what it needs in .venv.

PYTHON ?= python3
PRESET ?= demo
METHODS ?=
WORKERS ?= 2
LAB ?=
OUT ?= runs/$(PRESET)
BIN := .venv/bin
ALL := unmask prng-seed prng-state carlini-v2 carlini-v1

# Processes keep the bytecode of what they import. Without it each of them would compile for four seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help reproduce test test-slow test-browser test-oldest same-bits same-bits-arm same-bits-arm-demo coverage setup lab bench figures lint \
  notebooks readme expected lock docs clean

help:  ## Show this text
	@echo "Usage: make TARGET [PRESET=demo] [METHODS=\"unmask prng-seed\"] [OUT=runs/demo]"
	@echo
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/:.*  ## /\t/' | awk -F'\t' '{printf "  %-18s %s\n", $$1, $$2}'

reproduce: .venv/ready  ## Encrypt, attack, evaluate and verify a preset, and show the leaderboard
	@$(BIN)/instahide-nb reproduce --preset $(PRESET) --out "$(OUT)" $(foreach m,$(METHODS),--method $(m))

# Without nbval's plugin, which takes three seconds to load in each process; the tests load it where they need it.
test: .venv/ready  ## Unit tests, doctests, notebooks (nbval) and papermill runs, on WORKERS=2 processes
	$(BIN)/python -m pytest -p no:nbval --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: .venv/ready  ## The tests that take minutes
	$(BIN)/python -m pytest -m slow

test-browser: .venv/ready  ## gen_data in JupyterLab, in a real browser (Debian's chromium; needs root for apt-get); keeps build/jupyterlab.png
	command -v chromium >/dev/null || { apt-get update -q && apt-get install -y -q chromium; }
	PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 $(BIN)/python -m pip install -q --require-hashes -r requirements-browser.lock
	mkdir -p build
	INSTAHIDE_NB_SCREENSHOT="$(CURDIR)/build/jupyterlab.png" $(BIN)/python -m pytest -m browser

same-bits: .venv/ready  ## A preset's bits under other processors' features, kernels and threads (METHODS: unmask)
	$(BIN)/python tests/matrix.py --preset $(PRESET) --forms $(foreach m,$(or $(METHODS),unmask),--method $(m))

# Under emulation an attack takes from 2 minutes (prng-state) to half an hour (unmask and other forms): METHODS runs some alone.
ARM = PYTHONPATH=$(CURDIR)/src $(BIN)/python tests/matrix.py --case "as it is" --other-python build/arm/python

same-bits-arm: .venv/ready build/arm/ready  ## tiny's attacks, demo's challenge on emulated Arm (Debian 12, qemu-user-static); an hour
	$(ARM) --preset demo
	$(ARM) --preset tiny --forms $(foreach m,$(or $(METHODS),$(ALL)),--method $(m))

same-bits-arm-demo: .venv/ready build/arm/ready  ## demo's unmask on emulated Arm (METHODS); an hour or more
	$(ARM) --preset demo $(foreach m,$(or $(METHODS),unmask),--method $(m))

build/arm/ready: requirements.lock requirements-headless.lock tests/arm.sh
	sh tests/arm.sh

test-oldest: .venv/ready build/oldest/ready  ## tiny with the oldest supported versions: the same bits as with the locked ones
	rm -rf build/oldest/run
	PYTHONPATH=$(CURDIR)/src build/oldest/bin/python -m instahide_nb.run.cli reproduce --preset tiny --out build/oldest/run
	PYTHONPATH=$(CURDIR)/src $(BIN)/python tests/matrix.py --preset tiny --case "as it is" \
	  --other-python build/oldest/bin/python $(foreach m,$(or $(METHODS),$(ALL)),--method $(m))

build/oldest/ready: requirements-oldest.lock
	$(PYTHON) -c 'import sys; sys.exit("the oldest versions need Python 3.11 or 3.12: make PYTHON=...") if sys.version_info >= (3, 13) else 0'
	rm -rf build/oldest
	$(PYTHON) -m venv build/oldest
	build/oldest/bin/python -m pip install --quiet --require-hashes -r requirements-oldest.lock
	touch build/oldest/ready

coverage: .venv/ready  ## The tests again, and which lines of the package (but compiled ones) none of them reached
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report

setup: .venv/ready  ## Only the environment, in .venv

.venv/ready: requirements.lock requirements-uv.lock pyproject.toml setup.sh notebooks/ipython_kernel_config.py
	@PYTHON="$(PYTHON)" sh setup.sh

lint: .venv/ready  ## Static checks: ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: .venv/ready  ## Run the three notebooks and keep their outputs in notebooks/
	$(BIN)/python -m instahide_nb.run.notebooks

expected: .venv/ready  ## Make tiny and demo (all attacks) anew; keep hashes, README's numbers and the notebooks' outputs
	rm -rf runs/tiny runs/demo
	$(BIN)/instahide-nb reproduce --preset tiny --record
	$(BIN)/instahide-nb reproduce --preset demo --record $(foreach m,$(ALL),--method $(m))
	$(BIN)/python docs/fill_readme.py --keep runs/demo
	$(BIN)/python -m instahide_nb.run.notebooks

readme: .venv/ready  ## Fill README.md's generated parts
	$(BIN)/python docs/fill_readme.py

docs: .venv/ready  ## The package's reference from its docstrings, in build/docs
	$(BIN)/python -m pdoc --docformat numpy --output-directory build/docs instahide_nb

# More options go into LAB, such as LAB=--no-browser. JupyterLab wants to be told when root, as in a container, runs it.
lab: export JUPYTERLAB_WORKSPACES_DIR = $(CURDIR)/build/jupyterlab
lab: .venv/ready  ## Open the three notebooks in JupyterLab, on this machine only
	@$(BIN)/jupyter lab workspaces import notebooks/jupyterlab-workspace.json
	$(BIN)/jupyter lab --ip=localhost --LabApp.default_url=/lab/workspaces/instahide-nb \
	  $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

figures: .venv/ready  ## A paper's figures of a run (OUT=runs/demo), as PNG and PDF with captions
	$(BIN)/instahide-nb figures "$(OUT)"

bench: .venv/ready  ## Time and memory, as ratios measured in one run
	$(BIN)/python benchmarks/bench.py

LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url \
  --no-emit-find-links

lock:  ## Resolve the lock files anew where pyproject.toml asks for it (needs uv)
	$(LOCK) pyproject.toml --extra build --extra docs --extra test --extra lab --extra sweep --fork-strategy fewest \
	  --constraint requirements.constraints --output-file requirements.lock
	echo uv | $(LOCK) - --output-file requirements-uv.lock
	grep -A 40 '^opencv-contrib-python==' requirements.lock | grep -m1 -o '==[^ ]*' \
	  | sed 's/^/opencv-contrib-python-headless/' | $(LOCK) - --no-deps --output-file requirements-headless.lock
	echo playwright | $(LOCK) - --constraint requirements.lock --output-file requirements-browser.lock
	$(LOCK) pyproject.toml --resolution lowest-direct --output-file requirements-oldest.lock

clean:  ## Remove runs, caches and the environment
	rm -rf .venv runs notebooks/runs build dist .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
