# `make quickstart` and `make test` are all a newcomer needs; both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
PEERS := .venv-peers/bin

.PHONY: quickstart test lint format bench bench-peers wheel clean

quickstart: .venv
	$(BIN)/stunet quickstart --out quickstart

# A process per core; the tests of a file stay together, in their order.
test: .venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

BENCH := data remote inference train
# ROUNDS=1 is quick and rough.
ROUNDS ?= 5

bench: .venv
	$(call measure,bench,)

# nnU-Net v2 and MONAI beside us: 15 minutes on two quiet cores.
bench-peers: .venv .venv-peers
	$(call measure,bench-peers,--peers $(PEERS)/python)

define measure
	mkdir -p build
	for part in $(BENCH); do \
	  $(BIN)/python -m benchmarks.$$part --rounds $(ROUNDS) $(2) --json build/$$part.json || exit 1; \
	done
	$(BIN)/python -m benchmarks.report --command "make $(1)" $(BENCH:%=build/%.json)
endef

wheel: .venv
	$(BIN)/python -m build --wheel

# torch first and by its exact version, so that no other package's range picks a different build.
.venv: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv

# The peers come without their own dependencies; benchmarks/peers/requirements.txt says why.
.venv-peers: benchmarks/peers/packages.txt benchmarks/peers/requirements.txt
	$(PYTHON) -m venv .venv-peers
	$(PEERS)/pip install --quiet torch==2.13.0
	$(PEERS)/pip install --quiet --no-deps --requirement benchmarks/peers/packages.txt
	$(PEERS)/pip install --quiet --requirement benchmarks/peers/requirements.txt
	touch .venv-peers

clean:
	rm -rf .venv .venv-peers build dist *.egg-info quickstart
