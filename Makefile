# Two commands are enough: `make demo` and `make test`. Each makes the virtual environment if need be.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# torch is installed first and by version: a bare `torch` may bring several GB of CUDA packages.
TORCH ?= torch==2.13.0

# The lowest transformers that Eckart allows, beside all else as it is.
LOWEST := $(shell sed -n 's/^ *"transformers>=\([0-9.]*\),.*/\1/p' pyproject.toml)
OLDER := $(VENV)/transformers-$(LOWEST)

.PHONY: demo test test-lowest check docs clean

demo: $(VENV)/.installed
	$(BIN)/eckart demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal

# What depends on transformers most: loading and saving, generating, timing, GGUF files.
test-lowest: $(OLDER)
	PYTHONPATH=$(OLDER) $(BIN)/python -c 'import transformers as t; assert t.__version__.startswith("$(LOWEST)")'
	PYTHONPATH=$(OLDER) $(BIN)/python -m pytest -n auto -q tests/pipeline/test_after_loading.py \
	  tests/evaluation/test_speed.py tests/evaluation/test_bench.py tests/model/test_gguf.py

$(OLDER): $(VENV)/.installed-dev
	$(PIP) --no-deps --target $@ "transformers==$(LOWEST)"

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, in site/: open site/index.html.
docs: $(VENV)/.installed-dev
	$(BIN)/python docs/tables.py
	$(BIN)/mkdocs build --strict --quiet

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Eckart needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)"
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) site
