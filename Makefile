# Two commands on a fresh clone: `make demo` and `make test`. Both install into .venv first; PINS="torch==2.9.0" holds
# what is installed to given versions.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PINS   ?=
READY  := $(VENV)/.ready

.PHONY: demo test lint types suite prerelease bench notebooks picture clean

demo: $(READY)
	$(BIN)/aevb demo

# Lints, types and tests at once: the former two have one process each.
test: $(READY)
	@$(MAKE) --no-print-directory -j 3 lint types suite

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# Two processes of one thread each: threads that share a core wait for each other more than they compute. Each takes
# tests from the other where it has run out of its own.
suite: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

# What takes too long for every change: all worlds compiled, and faults planted to see that a test sees each of them.
prerelease: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m prerelease
	$(BIN)/python benchmarks/planted_faults.py

bench: $(READY)
	$(BIN)/python benchmarks/run.py

# The notebooks are kept as executed .ipynb; this runs them again in place.
notebooks: $(READY)
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace notebooks/*.ipynb

# The README's first picture, of the demo's figures.
picture: demo
	$(BIN)/python docs/picture.py

clean:
	rm -rf $(VENV) runs build *.egg-info

# uv makes the installation quick; where it cannot be had, pip does the same.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	-@$(BIN)/python -m pip install --quiet uv
	@if [ -x $(BIN)/uv ]; then $(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[dev]" $(PINS); \
	else $(BIN)/python -m pip install --quiet --editable ".[dev]" $(PINS); fi
	touch $@
