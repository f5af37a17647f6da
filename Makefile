# make demo    from nothing to a mixture and a report        make test   the tests
# make check   format, lint, types, imports, definitions     make slow   the longer tests; make soak: random cases by the hundred
# make clean   remove .venv and the demo's state
PYTHON ?= python3
BIN := .venv/bin
export DAGSTER_DISABLE_TELEMETRY := 1
export GX_ANALYTICS_ENABLED := false
export HF_HUB_DISABLE_TELEMETRY := 1
export VIRTUAL_ENV := $(CURDIR)/.venv

.PHONY: demo test check format slow soak clean install

demo: .venv/.installed
	$(BIN)/rds demo

test: .venv/.installed
	$(BIN)/pytest -n 2 --dist loadfile

slow: .venv/.installed
	$(BIN)/pytest -m slow -n 2

soak: .venv/.installed
	$(BIN)/pytest -m soak -n 2

check: .venv/.installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/dg check defs

format: .venv/.installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv .rds demo_data
