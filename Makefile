# The targets are what `make help` prints. Each makes its environment first where it is not there yet.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
OLDEST := .venv-oldest/bin/python
OLDEST_PIP := $(OLDEST) -m pip install --quiet --constraint .venv-oldest/lowest.txt
TESTS := -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder

unexport PYTHONDONTWRITEBYTECODE  # else each process compiles the tests again: 5 s

.PHONY: fit test lint help test-oldest test-wheel clean

fit: .venv/.fit  ## the main job: experts, joint model, merges, Self Positioning, scores
	$(BIN)/python -m lightning_app fit

test: .venv/.test  ## the test suite, in two processes
	$(BIN)/python $(TESTS)

lint: .venv/.test  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

help:  ## these lines
	@sed -n 's/^\([a-z-]*\):.*##/make \1 \t/p' $(MAKEFILE_LIST) | expand -t 20

test-oldest: .venv-oldest/.test  ## the test suite on the lowest versions that pyproject.toml allows
	$(OLDEST) $(TESTS)

test-wheel:  ## a wheel in an empty environment: fit runs from an empty folder
	rm -rf .venv-wheel && $(PYTHON) -m venv .venv-wheel && mkdir .venv-wheel/empty
	.venv-wheel/bin/python -m pip wheel --quiet --no-deps --wheel-dir .venv-wheel .
	.venv-wheel/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-wheel/bin/python -m pip install --quiet --constraint constraints.txt "$$(ls .venv-wheel/*.whl)[demo]"
	cd .venv-wheel/empty && ../bin/python -m lightning_app fit

clean:  ## remove the environments and what was built
	rm -rf .venv .venv-oldest .venv-wheel build *.egg-info

.venv/.fit: pyproject.toml constraints.txt
	@echo "setting up .venv (a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable '.[demo]'
	@touch $@

.venv/.test: .venv/.fit
	$(PIP) --editable '.[demo,onnx,completion,test]'
	@touch $@

.venv-oldest/.test: pyproject.toml tests/lowest_versions.py
	test -x $(OLDEST) || $(PYTHON) -m venv .venv-oldest
	$(PYTHON) tests/lowest_versions.py > .venv-oldest/lowest.txt
	$(OLDEST_PIP) torch
	$(OLDEST_PIP) --editable '.[demo,onnx,completion,test]'
	@touch $@
