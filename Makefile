# make demo: the whole path on a simulated archive; make test: every check and test.
PYTHON ?= $(shell for p in python3.11 python3; do $$p --version >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
PY := $(VENV)/bin/python
# the lock is for 3.11; newer Pythons resolve the ranges of pyproject.toml
CONSTRAINTS := $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" if sys.version_info[:2] == (3, 11) else "")')
# a file of tests stays in one process, and the order of the files is that of tests/conftest.py
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test core lint install release-check clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -qq --disable-pip-version-check $(CONSTRAINTS) -e '.[all,server,dev]'
	touch $@

demo: install
	$(PY) -m flows.demo

test: lint
	$(PY) $(PYTEST)

# the core alone, without torch, Prefect and stackstac: the tests that need these skip
core:
	$(CORE_PYTHON) -m venv --clear .venv-core
	.venv-core/bin/python -m pip install -qq --disable-pip-version-check -e '.[dev,server]'
	.venv-core/bin/python $(PYTEST)

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# what a release must have in order; TAG=v0.1.0 also compares the tag
release-check:
	$(PYTHON) deploy/release_check.py $(TAG)

clean:
	rm -rf $(VENV) .venv-core demo-out
