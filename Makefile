# Everything sets itself up in .venv; nothing else is touched. Needs Python >= 3.11, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Dozens of processes start in the tests and on a cluster: without bytecode each would compile torch anew (4 s).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-fast test-oldest check analysis gpu-bench lock clean

setup: $(VENV)/ready

$(VENV)/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rescaler needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip  # as in a .venv that uv has made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes --requirement requirements.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --editable .
	touch $@

# Kernel rescaling and its opponents at equal cost, on Fashion-MNIST.
demo: setup
	$(BIN)/python -m rescaler fair experiment=fair_demo --seeds 3 --lr 1 --folder runs/demo logger=none

# Every notebook of analysis/ on the runs in runs/, into analysis/executed/.
analysis: setup
	$(BIN)/python analysis/execute.py $(RUNS)

# What only a GPU shows, in at most 8 minutes, into one file: the paper's networks and ResNet-50, 2x2 kernels beside 3x3.
gpu-bench: setup
	$(BIN)/python -m benchmarks.gpu --minutes 8 --out benchmarks/results/gpu.json

# One verdict: the SLURM tests run too where a fast test fails.
test: setup
	fast=0; $(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not slurm" || fast=$$?; \
	  $(BIN)/python -m pytest -m slurm -rs && exit $$fast

# Under 3 minutes on two cores: all but the networks of the zoo, several processes, the documents and SLURM.
test-fast: setup
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not slow and not slurm"

# The tests with the oldest versions that pyproject.toml allows, torch's among them.
test-oldest: setup
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/oldest
	$(BIN)/uv pip install --quiet --python $(VENV)/oldest/bin/python --resolution lowest-direct --editable ".[dev]"
	$(VENV)/oldest/bin/python -m pytest --numprocesses auto --dist loadfile -m "not slurm"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pinned versions, anew.
lock: setup
	$(BIN)/uv pip compile --quiet --no-header --universal --generate-hashes --python-version 3.11 --extra dev --upgrade \
	  pyproject.toml --output-file requirements.txt

clean:
	rm -rf $(VENV)
