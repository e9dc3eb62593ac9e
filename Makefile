# `make train` and `make test` do all their set-up on a bare machine with Python 3.11–3.13; nothing else is needed first.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do $$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: train test slow gpu lint docs wheel clean

train: $(VENV)/.ready ## a small CLIP on generated scenes: minutes on two CPU cores
	$(RUN) train.py $(ARGS)

test: $(VENV)/.ready ## the whole suite but the slow and GPU tests, in two processes
	$(RUN) -m pytest -n 2 $(ARGS)

slow: $(VENV)/.ready ## tests of more than 20 seconds
	$(RUN) -m pytest -m slow $(ARGS)

gpu: $(VENV)/.ready ## tests that need an NVIDIA GPU; each is skipped where there is none
	$(RUN) -m pytest -m gpu $(ARGS)

lint: $(VENV)/.ready ## what pre-commit runs
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy && $(VENV)/bin/lint-imports && $(VENV)/bin/codespell vlp conf tests experiments docs README.md CONTRIBUTING.md

docs: $(VENV)/.ready ## the documentation, as pages in site/; a warning is an error, and nothing is fetched
	$(RUN) docs/generate.py && $(VENV)/bin/zensical build --clean --strict

wheel: $(VENV)/.ready
	$(RUN) -m build --wheel

$(VENV)/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "vlp needs Python 3.11, 3.12 or 3.13 (python3 -m venv must work); set PYTHON=/path/to/python"; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) dist site docs/generated .cache .pytest_cache .mypy_cache .ruff_cache
