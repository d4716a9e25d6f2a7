# make fit    the main job: experts, joint model, merges, Self Positioning, scores
# make test   the test suite, in two processes
# make lint   formatting, lint, types
# Each makes .venv first where it is not there yet.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: fit test lint clean

fit: .venv/.fit
	$(BIN)/python -m lightning_app fit

test: .venv/.test
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/.fit: pyproject.toml constraints.txt
	@echo "setting up .venv (a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable '.[demo]'
	@touch $@

.venv/.test: .venv/.fit
	$(PIP) --editable '.[demo,test]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info
