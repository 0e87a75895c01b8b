# Two commands are enough: `make demo` and `make test`. Each makes the virtual environment if need be.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# torch is installed first and by version: a bare `torch` may bring several GB of CUDA packages.
TORCH ?= torch==2.13.0

.PHONY: demo test check docs clean

demo: $(VENV)/.installed
	$(BIN)/eckart demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal

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
