# Everything sets itself up in .venv; nothing else is touched. Needs Python >= 3.11, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Dozens of processes start in the tests and on a cluster: without bytecode each would compile torch anew (4 s).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test check analysis gpu-bench lock clean

setup: $(VENV)/ready

$(VENV)/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rescaler needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
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

# The paper's networks on this machine's GPU: under 20 minutes.
gpu-bench: setup
	$(BIN)/python -m benchmarks.paper_networks --device cuda --out benchmarks/results/paper_networks_gpu.json

test: setup
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not slurm"
	$(BIN)/python -m pytest -m slurm -rs

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pinned versions, anew.
lock: setup
	$(BIN)/uv pip compile --quiet --no-header --universal --generate-hashes --python-version 3.11 --extra dev --upgrade \
	  pyproject.toml --output-file requirements.txt

clean:
	rm -rf $(VENV)
