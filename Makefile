# `make demo` and `make test` need Python >= 3.11 and make; all else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
# Without files of bytecode each worker would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE
# Its versions "+cpu" have no CUDA, and PyPI has none of them; on macOS there is no CUDA to have.
TORCH := 2.13.0
NO_TORCH := No CPU build of PyTorch $(TORCH) can be had here: tests of ew.torch will be skipped.

.PHONY: demo test test-all check clean .venv

demo: .venv
	$(BIN)/python -m expressway.demo

test: .venv .venv/torch
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What is marked slow as well, larger cases of what other tests check; compiled as users have it.
test-all: .venv .venv/torch
	XLA_FLAGS= $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m ''

check: .venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache build dist demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv: .venv/installed

# Renewed when the dependencies change; an interrupted installation has no stamp and is resumed.
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Expressway needs Python 3.11 or newer; $(PYTHON) is older or missing." \
	    "Name another: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# Without a network the tests go on: they need the rest only.
.venv/torch: | .venv/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 15 \
	  --extra-index-url https://download.pytorch.org/whl/cpu \
	  'torch==$(TORCH)+cpu; sys_platform != "darwin"' \
	  'torch==$(TORCH); sys_platform == "darwin"' 2>/dev/null \
	&& touch $@ || echo "$(NO_TORCH)" >&2
