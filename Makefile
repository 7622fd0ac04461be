# Everything sets itself up in .venv; nothing else is touched. Needs Python >= 3.11, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Dozens of processes start in the tests and on a cluster: without bytecode each would compile torch anew (4 s).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-oldest check analysis gpu-bench lock clean

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

# The paper's Table 2 in miniature, on Fashion-MNIST.
demo: setup
	$(BIN)/python -m rescaler.run -m resize_epoch=0,17,18,19,20,never

# Every notebook of analysis/ on the runs in runs/, into analysis/executed/.
analysis: setup
	$(BIN)/python analysis/execute.py $(RUNS)

# What only a GPU shows, into benchmarks/results/gpu/: the tests on it, the harness beside other loops, the settings of
# step, the paper's networks on images of the device and on prepared files. Under 20 minutes, and a minute for the files.
GPU := benchmarks/results/gpu
gpu-bench: setup
	$(BIN)/python -m pytest tests/test_cuda.py
	$(BIN)/python -m benchmarks.training_loop --device cuda --out $(GPU)/training_loop.json
	$(BIN)/python -m benchmarks.step_choices --device cuda --out $(GPU)/step_choices.json
	$(BIN)/python -m benchmarks.paper_networks --device cuda --minutes 6 --out $(GPU)/paper_networks.json
	$(BIN)/python -m benchmarks.image_files --rounds 3 --folder runs/photos --out $(GPU)/image_files.json
	$(BIN)/python -m benchmarks.paper_networks --device cuda --minutes 2 --precisions bf16 \
	  --folder runs/photos/prepared --out $(GPU)/paper_networks_files.json

# One verdict: the SLURM tests run too where a fast test fails.
test: setup
	fast=0; $(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not slurm" || fast=$$?; \
	  $(BIN)/python -m pytest -m slurm -rs && exit $$fast

# The fast tests with the oldest versions that pyproject.toml allows, torch's among them.
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
