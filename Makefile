# Each target does all the set-up it needs (tools/set_up.py): the virtual environment .venv, and Debian packages where
# it may install them. PYTHON names the interpreter to make .venv with; once there is one, its own unless another is
# named. ARGS is passed on: make test ARGS="-k cull -x"

PYTHON ?= $(or $(realpath .venv/bin/python),python3)
ARGS ?=
BIN := .venv/bin
# Linux is the platform of the cachefiles backend alone; the rest must type-check without it.
PORTABLE := $(wildcard fscache_core/*.py backends/memory/src netfs_adapters/*/src)
CODE := $(wildcard fscache_core backends netfs_adapters frontends tests examples benchmarks tools)

.PHONY: help setup demo test coverage lint format bench soak clean

help:
	@echo "make demo     read a real tree through one cache from SFTP and S3: cold, warm, offline"
	@echo "make test     all tests (ARGS=... goes to pytest)"
	@echo "make coverage which lines and branches of fscache_core the tests reach; fails below 95 %"
	@echo "make lint     ruff, mypy, import contracts"
	@echo "make format   let ruff format and fix what it can"
	@echo "make bench    benchmarks (ARGS=...)"
	@echo "make soak     the cachefiles backend under kills, faults, power cuts and a changing origin (ARGS=--minutes=5)"
	@echo "make setup    only the set-up, once more, also what could not be installed before"
	@echo "make clean    remove .venv and everything generated"
	@echo "PYTHON=python3.13 behind one of them makes .venv anew with this Python, for all that follow"

setup:
	@$(PYTHON) tools/set_up.py --again

demo test coverage lint format bench soak: | ready
.PHONY: ready
ready:
	@$(PYTHON) tools/set_up.py

demo:
	@$(BIN)/python examples/demo.py $(ARGS)

test:
	@$(BIN)/pytest $(ARGS)

# Left out: tests that fork beside threads, since a child may inherit a lock of coverage's own that nobody releases;
# and what starts servers or environments by the dozen and reaches nothing more of core.
COVERED := tests examples backends/memory/tests

coverage:
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -m "not packaging" -k "not fork" --ignore tests/integration \
	    --ignore tests/test_benchmarks.py $(ARGS) $(COVERED)
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report

lint:
	$(BIN)/ruff check --output-format concise $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy $(CODE)
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin $(PORTABLE)
	$(BIN)/lint-imports --no-logo

format:
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench:
	@$(BIN)/python -m benchmarks $(ARGS)

soak:
	@$(BIN)/python backends/cachefiles/tests/soak.py $(ARGS)

clean:
	rm -rf .venv build dist .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
