# Two commands set up everything: `make demo` trains a reranker, `make test` runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --constraint constraints.txt --editable

.PHONY: install demo test check clean

install: $(VENV)/installed-dev  ## .venv with everything that the tests need

demo: $(VENV)/installed  ## the main job: a reranker trained by GRPO
	$(BIN)/torchrun launch/train.py +exp=reranker_grpo

# Two processes: most tests use one core. The tests of a file share fixtures and stay together.
test: $(VENV)/installed-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing that venv installs: a half-made environment is made again.
$(BIN)/pip:
	$(PYTHON) -m venv --clear $(VENV)

# Installed again where setup.py or constraints.txt changed.
$(VENV)/installed: setup.py constraints.txt | $(BIN)/pip
	$(INSTALL) '.[minilm]'
	touch $@

$(VENV)/installed-dev: setup.py constraints.txt | $(BIN)/pip
	$(INSTALL) '.[minilm,dev]'
	touch $(VENV)/installed $@
