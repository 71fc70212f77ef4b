# `make results/<paper>` and `make test` set themselves up: they need Python >= 3.11, make and a C compiler.
PYTHON ?= python3
VENV ?= .venv
SCALE ?= cpu
BIN := $(VENV)/bin
LOCKS := requirements.lock requirements-torch.lock $(if $(CUDA),requirements-cuda.lock)
READY := $(VENV)/.ready$(if $(CUDA),-cuda)$(if $(CPU),-cpu)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup test test-all lint gallery artifacts lock benchmark clean
help:
	@echo "make results/<paper>   environment, training, figures and report (SCALE=smoke|cpu|paper)"
	@echo "make test              environment, then the tests that take seconds"
	@echo "make test-all          all tests but those that need Slurm or a GPU"
	@echo "make setup             the environment alone, in $(VENV) (CUDA=1: with the GPU builds; CPU=1: PyTorch without its 4 GB for GPUs)"
	@echo "make lint              ruff and mypy"
	@echo "make benchmark         CPU time of one core beside the official code's: docs/speed.md and the rooms' READMEs"
	@echo "make gallery           docs/gallery/ and the README's table from results/"
	@echo "make artifacts         record what was built with DVC and store it in artifacts/ (ALLOW_UNKNOWN=1: any revision)"
	@echo "make lock              rewrite the requirement locks"

setup: $(READY)

$(READY): $(LOCKS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "refigure needs Python 3.11 or newer, $(PYTHON) is %d.%d: make PYTHON=/path/to/python3.11 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet -r requirements-torch.lock -c requirements-cuda.lock $(if $(CUDA),-r requirements-cuda.lock) $(if $(CPU),--index-url https://download.pytorch.org/whl/cpu)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# The figure of one paper; Snakemake decides what there is to do.
.PHONY: FORCE
results/%: $(READY) FORCE
	$(BIN)/snakemake results/$* --config scale=$(SCALE)
FORCE:

test: $(READY)
	$(BIN)/python -m pytest -m "not slow and not cluster and not gpu" --numprocesses auto --dist loadfile

test-all: test
	sh tests/browser.sh
	$(BIN)/python -m pytest -m "slow and not cluster and not gpu" --numprocesses auto --dist worksteal

lint: $(READY)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/mypy

benchmark: $(READY)
	for paper in survae anml vsml mplp deq hebbian_abcd byol; do $(BIN)/python benchmarks/bench_$$paper.py --json docs/speed/$$paper.json || exit 1; done
	$(BIN)/python benchmarks/publish.py

gallery: $(READY)
	$(BIN)/refigure gallery

artifacts: $(READY)
	$(BIN)/refigure check $(if $(ALLOW_UNKNOWN),--allow-unknown)
	$(BIN)/dvc repro
	$(BIN)/dvc push

lock: $(READY)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python workflow/lib/lock.py

clean:
	rm -rf $(VENV) .snakemake logs build *.egg-info
