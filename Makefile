# Set-up, checks and the demonstration. Every target sets the environment up first, once:
# .venv carries a stamp of pyproject.toml and constraints.txt, and is reused while they stay.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.PHONY: help setup demo test lint docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   sample MNIST digits, compute bits/dim, compare solvers: out/ (3 minutes)"
	@echo "make test   ruff, mypy and all tests (under 10 minutes)"
	@echo "make lint   ruff and mypy alone"
	@echo "make docs   the documentation, built strictly: site/"
	@echo "make clean  remove what the others made, except .venv"

setup: $(STAMP)

$(STAMP):
	$(PYTHON) -m venv $(VENV)
	@# torch goes first, by itself: whichever build is chosen here is the one that stays.
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@rm -f $(VENV)/.ready-*
	@touch $@

demo: $(STAMP)
	$(BIN)/scoresde demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

clean:
	rm -rf out site build .mypy_cache .ruff_cache .pytest_cache
