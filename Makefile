# All targets need Python 3.11 to 3.14, make and a package index. Packages are installed into .venv.
# On Linux without a GPU, first install the small CPU build of torch into .venv; see docs/install.md.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
LINT := build/lint
OLDEST := build/oldest
# Everything in build/ except the links of editable installations.
BUILT = $(filter-out build/__editable__%,$(wildcard build/*))
ARGS ?=

# Bytecode is always written, because the tests start many processes. The tests of a module run in one process, because
# they share trained networks.
TEST_SETTINGS := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1
BY_MODULE := -n 2 --dist loadscope

# The first of these commands that is a suitable version; python3 is tried first.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$name -c '$(FITS)' 2>/dev/null; then echo $$name; break; fi; done)

.PHONY: help fit test test-slow test-oldest fuzz coverage mutants lint structure bench docs build clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "ARGS=... is passed on, as in make fit ARGS='n_seeds=5 target=runge'"

fit: $(VENV)/installed ## set up .venv and fit the default target; the last lines are the run folder and the result
	@$(BIN)/kanrun fit $(ARGS)

test: $(VENV)/installed-dev ## the default test suite
	$(TEST_SETTINGS) $(BIN)/python -m pytest $(BY_MODULE) $(ARGS)

test-slow: $(VENV)/installed-dev ## all tests, including those that take minutes
	$(TEST_SETTINGS) $(BIN)/python -m pytest $(BY_MODULE) -m "slow or not slow" $(ARGS)

fuzz: $(VENV)/installed-dev ## random input to all readers, 20 s each; make fuzz ARGS=--seconds=60 takes longer
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/hard/test_fuzz.py $(or $(ARGS),--seconds=20)

# uv can choose the lowest allowed versions. torch is linked from .venv instead of being installed again.
test-oldest: $(VENV)/installed-dev ## the default tests with the oldest packages that are declared, torch as installed
	rm -rf $(OLDEST) && $(PYTHON) -m venv $(OLDEST) && $(OLDEST)/bin/python -m pip install -q uv
	$(BIN)/python -c 'import torch; print("torch==" + torch.__version__.split("+")[0])' > $(OLDEST)/torch.txt
	$(OLDEST)/bin/uv pip compile -q --resolution lowest-direct --python $(OLDEST)/bin/python -c $(OLDEST)/torch.txt \
		--extra dev --no-header --no-annotate -o $(OLDEST)/all.txt pyproject.toml
	grep -vE '^(torch|nvidia|triton|cuda)' $(OLDEST)/all.txt > $(OLDEST)/lowest.txt
	$(OLDEST)/bin/uv pip install -q --python $(OLDEST)/bin/python --no-deps -r $(OLDEST)/lowest.txt
	$(BIN)/python -c 'import pathlib, sys, torch; site = pathlib.Path(torch.__file__).parents[1]; \
		[pathlib.Path(sys.argv[1], f.name).symlink_to(f) for f in site.glob("*torch*") if f.name.startswith(("torch", "functorch"))]' \
		$$($(OLDEST)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	$(OLDEST)/bin/uv pip install -q --python $(OLDEST)/bin/python --no-deps -e .
	$(TEST_SETTINGS) $(OLDEST)/bin/python -m pytest $(BY_MODULE) $(ARGS)

coverage: $(VENV)/installed-dev ## the default tests, and the share of lines that they execute
	$(TEST_SETTINGS) $(BIN)/python -m pytest $(BY_MODULE) --cov --cov-report=term:skip-covered $(ARGS)

mutants: $(VENV)/installed-dev ## 60 small changes of the program, and those that no test notices
	$(TEST_SETTINGS) $(BIN)/python tests/mutants.py $(ARGS)

# import-linter and mypy run on a copy with the layout of an installed wheel, where experiments/ and conf/ are parts of
# kanrun. tests/test_packaging.py builds the wheel itself.
lint: $(VENV)/installed-dev ## ruff; import-linter and mypy --strict on the package as installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(BUILT) && mkdir -p $(LINT)/site
	cp -r kanrun $(LINT)/site && cp -r conf experiments $(LINT)/site/kanrun
	cp pyproject.toml $(LINT)
	cd $(LINT) && PYTHONPATH=site "$(CURDIR)/$(BIN)/lint-imports" --no-cache
	cd $(LINT) && MYPYPATH=site "$(CURDIR)/$(BIN)/mypy" --strict --cache-dir "$(CURDIR)/.mypy_cache" -p kanrun

structure: $(VENV)/installed-dev ## files that a run executes, fields of policies
	@$(BIN)/python tests/structure.py

bench: $(VENV)/installed ## list the benchmarks; make bench NAME=nguyen ARGS=budget=15 runs one
	@$(BIN)/python benchmarks $(NAME) $(ARGS)

docs: $(VENV)/installed-dev ## the documentation as a site, in build/site
	$(BIN)/mkdocs build --strict

build: $(VENV)/installed-dev ## wheel and source archive into dist/
	rm -rf $(BUILT) dist
	$(BIN)/python -m build --no-isolation -o dist .

clean: ## remove everything that was built, except outputs/ and .venv
	rm -rf $(BUILT) dist *.egg-info .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find kanrun conf experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "kanrun needs Python 3.11 to 3.14; install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	@echo 'installing into $(VENV); torch is a large download' >&2
	$(PIP) install -q -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	@echo 'installing into $(VENV); torch is a large download' >&2
	$(PIP) install -q -e '.[dev]'
	@touch $@ $(VENV)/installed
