# Everything runs in .venv, made on first use and refreshed when a dependency or a pin changes.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PACKAGES := unlearn eval/unlearn_eval
# More words for pytest or the demo: make test ARGS="-k npo"
ARGS ?=
# Words for the mutation run: make mutation MUTANTS="verdict --count 50", or MUTANTS=--all
MUTANTS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test federated check lint imports types docstrings format docs bench gpu stress mutation wheel

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## Make or refresh .venv from constraints.txt

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

demo: $(STAMP)  ## Tell the whole story on the embedded model, into out/demo
	$(BIN)/unlearn demo --output out/demo --overwrite $(ARGS)

test: $(STAMP)  ## Run all tests but the stress runs
	$(BIN)/python -m pytest -m "not stress" $(ARGS)

# Flower wants older versions of some libraries, so that it has an environment of its own
federated: .venv-federated/.installed  ## Run the tests of federations, in .venv-federated
	.venv-federated/bin/python -m pytest -n 2 tests/federated $(ARGS)

.venv-federated/.installed: pyproject.toml constraints-federated.txt
	test -x .venv-federated/bin/python || $(PYTHON) -m venv .venv-federated
	.venv-federated/bin/python -m pip install --quiet --constraint constraints-federated.txt \
		--editable '.[federated,dp]' pytest pytest-xdist hypothesis
	touch $@

check: lint imports types docstrings  ## Lint, formatting, who imports whom, types, docstrings

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

imports: $(STAMP)
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy $(PACKAGES)

docstrings: $(STAMP)
	$(BIN)/pydoclint --quiet $(PACKAGES)

format: $(STAMP)  ## Sort imports and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## Build the documentation into out/docs
	$(BIN)/python -m sphinx -W --keep-going -b html -d out/.doctrees docs out/docs

bench: $(STAMP)  ## Measure speed and memory, into out/
	mkdir -p out
	set -e; for script in tests/benchmarks/bench_*.py; do \
		$(BIN)/python $$script out/$$(basename $$script .py).json; done

gpu: $(STAMP)  ## Measure on a large GPU (10 minutes at most), into out/gpu.json
	mkdir -p out
	$(BIN)/python tests/benchmarks/gpu.py out/gpu.json $(ARGS)

stress: $(STAMP) mutation  ## Run the long kill and soak tests, and the mutation run
	$(BIN)/python -m pytest -m stress $(ARGS)

mutation: $(BIN)/mutmut  ## Break losses, statistics and verdict on purpose: do the tests notice?
	$(BIN)/python tests/mutation/run.py $(MUTANTS)

$(BIN)/mutmut: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutation]'
	touch $@

wheel: $(STAMP)  ## Build the wheel into dist/
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation
