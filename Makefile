# `make quickstart` and `make test` are all a newcomer needs; both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint format bench wheel clean

quickstart: .venv
	$(BIN)/stunet quickstart --out quickstart

test: .venv
	$(BIN)/python -m pytest

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv
	mkdir -p build
	$(BIN)/python -m benchmarks.data --json build/data.json
	$(BIN)/python -m benchmarks.train --json build/train.json
	$(BIN)/python -m benchmarks.report build/data.json build/train.json

wheel: .venv
	$(BIN)/python -m build --wheel

# torch first and by its exact version, so that no other package's range picks a different build.
.venv: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv

clean:
	rm -rf .venv build dist *.egg-info quickstart
