PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Without its dependencies (gym, gym3, numpy < 2), none of which worldmodels uses; not everywhere.
PROCGEN := procgen-mirror ; python_version < '3.13' and sys_platform == 'linux' and platform_machine == 'x86_64'

.PHONY: help install demo test test-slow lint clean

help:
	@echo "make demo       install, train an agent on Catch in minutes, look at its dreams"
	@echo "make test       install, run the test suite"
	@echo "make test-slow  the long runs: learning, every compile target, full sweeps"
	@echo "make lint       ruff and pyright"
	@echo "make install    build .venv with everything pinned in constraints.txt"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "worldmodels needs Python 3.11 or newer; set one with: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps "$(PROCGEN)"
	@touch $@

demo: RUN := runs/demo/$(shell date +%Y%m%d-%H%M%S)
demo: install
	$(BIN)/worldmodels train catch --preset demo --run $(RUN)
	$(BIN)/worldmodels dream $(RUN)
	@echo
	@echo "next:  $(BIN)/worldmodels eval $(RUN)               play 100 more episodes"
	@echo "       $(BIN)/worldmodels train atari:Pong          the real thing (a GPU helps)"
	@echo "       $(BIN)/worldmodels train --help              every option"

test: install
	$(BIN)/python -m pytest -n 2

test-slow: install
	$(BIN)/python -m pytest -m slow --timeout 3600

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
