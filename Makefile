# Every install goes through constraints.txt, so that everybody runs what was tested.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/installed
ON ?= a100-sxm4-80gb

.PHONY: help install demo test check lint types layers format golden docs clean

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|'

install: $(INSTALLED) ## make the virtual environment and install into it

# pytest's sources hold the schema of JUnit XML, which no wheel does.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt setuptools
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev,examples]'
	$(BIN)/python -m pip download -qq --disable-pip-version-check -c constraints.txt --no-deps --no-binary pytest -d $(VENV)/sources pytest
	mkdir -p $(VENV)/typing
	ln -sfn '$(CURDIR)' $(VENV)/typing/foretrace
	touch $@

demo: $(INSTALLED) ## from a fresh machine to a GPT-2 XL training step priced for an A100
	$(BIN)/foretrace run examples/gpt2_xl.py:gpt2_xl -p batch=8 -p seq=1024 --on $(ON)

test: $(INSTALLED) ## from a fresh machine to the whole test suite
	$(BIN)/pytest

check: lint types layers ## style, types, and which folder may import which

lint: $(INSTALLED) ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## mypy --strict on the package
	cd $(VENV)/typing && '$(abspath $(BIN))/python' -m mypy --config-file '$(CURDIR)/pyproject.toml' --cache-dir '$(CURDIR)/.mypy_cache'

layers: $(INSTALLED) ## import-linter: imports lead one way, and only the tracer imports torch
	$(BIN)/lint-imports --no-cache

format: $(INSTALLED) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: $(INSTALLED) ## rewrite the expected output of the command line and of the check
	$(BIN)/pytest tests/test_cli.py tests/checks/test_formats.py --update-golden

docs: $(INSTALLED) ## the site, into build/site
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt 'mkdocs-material' 'mkdocstrings[python]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

clean: ## remove what these targets made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
