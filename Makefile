# make demo    from nothing to a mixture and a report        make test   the tests
# make check   format, lint, types, imports, definitions     make slow   the longer tests; make soak: random cases by the hundred
# make bench   ratios to the limits of the machine, held to benchmarks/ratios.json; DATA=<folder> as benchmarks/real/README.md has it
# make clean   remove .venv and the demo's state
PYTHON ?= python3
BIN := .venv/bin
export DAGSTER_DISABLE_TELEMETRY := 1
export GX_ANALYTICS_ENABLED := false
export HF_HUB_DISABLE_TELEMETRY := 1
export VIRTUAL_ENV := $(CURDIR)/.venv

.PHONY: demo test check format slow soak bench clean install

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

DATA ?= $(RDS_REAL_DATA)
bench: .venv/.installed
	@test -d "$(DATA)/pool" || { echo "DATA is '$(DATA)'; expected a folder with pool/ and tasks/: make bench DATA=<folder>"; exit 2; }
	rm -rf .bench
	$(BIN)/python -m benchmarks.embedding --data $(DATA) --models tiny --texts 1000 --json .bench/embedding_tiny.json
	$(BIN)/python -m benchmarks.embedding --data $(DATA) --models minilm --texts 1000 --limits-only --json .bench/embedding_minilm.json
	$(BIN)/python -m benchmarks.scoring --work .bench/scoring --examples 1000000 --json .bench/scoring.json
	$(BIN)/python -m benchmarks.selection --examples 1000000 --json .bench/selection.json
	$(BIN)/python -m benchmarks.reading --data $(DATA) --json .bench/reading.json
	$(BIN)/python -m benchmarks.memory --stages texts vectors --sizes 300000 1000000 --json .bench/memory.json
	$(BIN)/python -m benchmarks.disk --data $(DATA) --json .bench/disk.json
	$(BIN)/python -m benchmarks.overhead --json .bench/overhead.json
	$(BIN)/python -m benchmarks.growth --data $(DATA) --work .bench/growth --share 0.05 --json .bench/growth.json
	if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then $(BIN)/python -m benchmarks.gpu --data $(DATA) --json .bench/gpu.json; fi
	$(BIN)/python -m benchmarks.check_ratios .bench/*.json

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
