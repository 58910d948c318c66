# Set-up, checks and the demonstration. Every target first sets up what it needs, once: .venv carries
# a stamp of its Python, pyproject.toml and constraints.txt, and is reused while these stay.

JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
version = $(shell $(1) -c "import sys; print(sys.version.split()[0])" 2>/dev/null)
# A .venv that is there keeps its Python, until another is asked for.
FOUND := $(call version,$(BIN)/python)
PYTHON ?= $(if $(FOUND),$(BIN)/python,python3)
VERSION := $(lastword $(call version,$(PYTHON)))
KEY := $(shell { echo $(VERSION); cat pyproject.toml constraints.txt; } | cksum | cut -d' ' -f1)
DEV := $(VENV)/.ready-dev-$(KEY)
DEMO := $(or $(wildcard $(DEV)),$(VENV)/.ready-demo-$(KEY))

.PHONY: help setup demo test lint docs lock resolve clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     sample MNIST digits, compute bits/dim, compare solvers: out/ (3 minutes)"
	@echo "make test     ruff, mypy and all tests (under 10 minutes)"
	@echo "make lint     ruff and mypy alone"
	@echo "make docs     the documentation, built strictly: site/"
	@echo "make setup    .venv with what all of these need, from PYTHON=$(PYTHON)"
	@echo "make lock     constraints.txt anew, after a change of dependencies; all newest: UPGRADE=--upgrade"
	@echo "make resolve  check that constraints.txt serves every Python and system"
	@echo "make clean    remove what the others made, except .venv"

setup: $(DEV)

# The stem is the extra of pyproject.toml that is installed. pip, and not uv, installs: it comes with
# Python, and it keeps a build of torch that is already in .venv, CPU or CUDA.
# Every version is given, so that any pip has nothing to search.
$(VENV)/.ready-%-$(KEY):
	$(if $(shell printf '3.11\n%s\n' $(VERSION) | sort -CV && echo new),,$(error scoresde needs \
	  Python 3.11 or newer; '$(PYTHON)' $(if $(VERSION),is $(VERSION),does not run): \
	  write make $(or $(firstword $(MAKECMDGOALS)),setup) PYTHON=python3.12))
	$(if $(shell $(PYTHON) -c "import venv, ensurepip" 2>&1),$(error '$(PYTHON)' cannot make \
	  environments: install its module venv, on Debian and Ubuntu with apt install python3-venv))
	@rm -f $(VENV)/.ready-*
	$(PYTHON) -m venv $(if $(filter $(VERSION),$(FOUND)),,--clear) $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$*]'
	@touch $@

demo: $(DEMO)
	$(BIN)/scoresde demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DEV)
	$(BIN)/mkdocs build --strict

# The lock: one file for every Python from 3.11.0, every system, and CPU and CUDA builds of torch. uv
# writes it, as pip cannot resolve for another Python than its own. What a CUDA build needs on top is
# left out: each build of torch names its own exact versions of these.
TORCH := 2.13.0
CUDA := ^(nvidia-|cuda-|triton=)
UV := build/uv/bin/uv
PYTHONS := 3.11.0 3.11.2 3.11.14 3.12.0 3.13.0 3.14.0
SYSTEMS := x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin
# uv asks the index that pip is set to here, if any, and takes the Python at hand. torch needs macOS 14.
COMPILE = index=$$(build/uv/bin/pip config list | sed -n "s/.*\.index-url='\(.*\)'/\1/p" | tail -1); \
	export UV_PYTHON_DOWNLOADS=never MACOSX_DEPLOYMENT_TARGET=14.0; [ -z "$$index" ] || export UV_DEFAULT_INDEX="$$index"; \
	compile() { $(UV) pip compile --quiet --all-extras --no-header --no-annotate --no-emit-index-url "$$@"; }

$(UV):
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install --quiet uv

lock: $(UV)
	@cp constraints.txt build/lock.txt
	@$(COMPILE); echo 'torch==$(TORCH)' | compile pyproject.toml - --universal \
	  --python-version 3.11.0 $(UPGRADE) -o build/lock.txt > /dev/null
	@{ echo "# Exact versions of everything that 'make' installs, for every Python from 3.11.0 and every system."; \
	  echo "# Made by 'make lock' from pyproject.toml, whose ranges are all that binds users of the library."; \
	  grep -Ev '$(CUDA)' build/lock.txt; } > constraints.txt

# Every package must have a wheel, and a version that the lock names.
resolve: $(PYTHONS:%=resolve-%)

resolve-%: $(UV)
	@$(COMPILE); mkdir -p build/$@; sed 's/ *;.*//' constraints.txt > build/$@/pins; \
	for system in $(SYSTEMS); do \
	  compile pyproject.toml -c constraints.txt --only-binary :all: --python-version $* \
	    --python-platform $$system -o build/$@/$$system > /dev/null || exit 1; \
	  if grep -Ev '$(CUDA)' build/$@/$$system | grep -vxF -f build/$@/pins; then \
	    echo "constraints.txt does not name these, on Python $* and $$system: write make lock"; exit 1; \
	  fi; \
	  echo "Python $*, $$system: $$(wc -l < build/$@/$$system) packages"; \
	done

clean:
	rm -rf out site build .mypy_cache .ruff_cache .pytest_cache
