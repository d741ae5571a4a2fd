# Five words are enough: demo, test, check, fix, lab (and bench for the README's figures).
PYTHON ?= python3
VENV := .venv
# processes that the tests are spread over, some 1.5 GB of memory each: make test JOBS=4
JOBS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check fix lab bench clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/cascade-distill demo

test: check
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lab: $(STAMP)
	$(BIN)/python -m lab.build

bench: $(STAMP)
	$(BIN)/python -m benchmarks.improvement

clean:
	rm -rf $(VENV) runs .lab
