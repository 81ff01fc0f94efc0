# `make demo`, `make lint`, `make quick` and `make test` each make .venv and install what they need, in any order.
# `make torch` adds PyTorch, timm, transformers, ONNX and clients of loggers, with which `make test-all` compares.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo quick test test-all torch docs lint format clean

demo: $(VENV)/installed
	$(BIN)/fastmim pretrain --config=configs/quickstart.py --workdir=runs/quickstart

# Units and one case of every family and method: one to two minutes on two cores.
# Its many small programs are kept in the cache too, which the longer runs would fill with what is not used again.
quick: $(VENV)/installed
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow and not torch and not multiprocess and not exhaustive"

# Before every commit: all but notebooks and the further cases of sweeps (`exhaustive`), whose number it prints.
test: $(VENV)/installed
	$(BIN)/python -m pytest -q -rs -n 2 --dist loadfile --no-loadscope-reorder -m "not exhaustive and not notebook"

# Everything, as in .ci/run.
test-all: $(VENV)/installed
	$(BIN)/python -m pytest -q -rs -n 2 --dist loadfile --no-loadscope-reorder

# torchvision without what it asks for: timm imports it, and nothing here calls its compiled operators.
torch: $(VENV)/installed
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --no-deps torchvision==0.28.0
	$(BIN)/pip install --quiet --editable ".[dev,torch,onnx,wandb,mlflow]"

# The documentation in site/, whose index.html opens from the disk; a warning, such as a broken link, is an error.
docs: $(VENV)/installed
	$(BIN)/pip install --quiet --editable ".[dev,docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": type make PYTHON=python3.12 (or another)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .cache runs site
