# `make demo` and `make test` make .venv on their first run and use it afterwards.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
DEMO := runs/demo

.PHONY: help install demo test test-all lint format clean

help:
	@echo "make demo      train a 90 % sparse ResNet-50 on handwritten digits, export it"
	@echo "make test      lint, and the tests that take seconds"
	@echo "make test-all  all tests"
	@echo "make format    format the code"
	@echo "make clean     remove .venv and runs"

install: $(INSTALLED)

$(INSTALLED): setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	touch $(INSTALLED)

demo: $(INSTALLED)
	$(VENV)/bin/train_resnet50 --output_dir=$(DEMO)

lint: $(INSTALLED)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

format: $(INSTALLED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Two processes, since each of them imports TensorFlow. The slow tests start processes
# of their own, and send signals to them: one after the other.
test: lint
	$(VENV)/bin/python -m pytest -m "not slow" -n 2

test-all: test
	$(VENV)/bin/python -m pytest -m slow

clean:
	rm -rf $(VENV) runs
