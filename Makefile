PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-all lint bench clean

help:
	@echo "make demo      restore real samples and write demo/index.html"
	@echo "make test      run the tests of a few minutes"
	@echo "make test-all  run all tests (those for a GPU where there is one)"
	@echo "make lint      ruff, ruff format, mypy"
	@echo "make bench     run the measurements in benchmarks/"
	@echo "make clean     remove .venv and everything that was built or written"

$(STAMP): pyproject.toml constraints.txt tools/suite_build.py $(wildcard packages/*/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing into .venv (torch is large: the first time takes minutes)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,dev,samples]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/diffusion-suite demo

test: $(STAMP)
	$(BIN)/python -m pytest -m 'not slow and not gpu'

test-all: $(STAMP)
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; \
	then $(BIN)/python -m pytest; else $(BIN)/python -m pytest -m 'not gpu'; fi

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy packages/*/src

bench: $(STAMP)
	@set -e; for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python "$$script"; done

clean:
	rm -rf .venv build dist demo runs lightning_logs .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find packages tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
