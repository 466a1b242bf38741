# `make demo` and `make test` make .venv on their first run and use it afterwards.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
DEMO := runs/demo
PYTEST := $(VENV)/bin/python -m pytest
BACKENDS := tensorflow jax torch
# What runs with Keras 3 on each backend. All tests but those of arrays are of tf_keras.
OF_ARRAYS := tests/test_fusion.py tests/test_learned_techniques_math.py \
    tests/test_masks.py tests/test_numerics.py tests/test_schedules.py \
    tests/test_structures.py tests/test_techniques.py
OF_KERAS_3 := tests/keras3 tests/shared $(OF_ARRAYS)
OF_TF_KERAS := tests $(OF_ARRAYS:%=--ignore=%)

.PHONY: help install demo test test-all lint format docs features study bench clean

help:
	@echo "make demo      train a 90 % sparse ResNet-50 on handwritten digits, export it"
	@echo "make test      lint, and the tests that take seconds"
	@echo "make test-all  all tests"
	@echo "make format    format the code"
	@echo "make docs      build the documentation, into build/docs"
	@echo "make study     train the runs of docs/study.md, in hours, and write it"
	@echo "make bench     all benchmarks, in an hour or two, compared with the last time"
	@echo "make features  all tests, and the table of what works with which backend"
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

# In two processes, since each of them imports a framework; neighbours, which share
# fixtures, in one of them. What works is noted on the way, for the table of features.
IN_TWO := -n 2 --dist=worksteal
define with_keras_3
for backend in $(BACKENDS); do \
    SOS_KERAS=keras KERAS_BACKEND=$$backend $(PYTEST) $(OF_KERAS_3) $(IN_TWO) -m $(1) \
        --features=build/features/$$backend-$(1).json || exit 1; \
done
endef

test: lint
	SOS_KERAS=tf_keras $(PYTEST) $(OF_TF_KERAS) $(IN_TWO) -m "not slow" \
	    --features=build/features/tf_keras.json
	$(call with_keras_3,"not slow")

# Slow tests of the laboratory start processes of their own: those of a file one after the
# other.
test-all: test docs
	SOS_KERAS=tf_keras $(PYTEST) $(OF_TF_KERAS) -n 2 --dist=loadfile -m slow \
	    --features=build/features/tf_keras-slow.json
	$(call with_keras_3,slow)

# Nothing may warn. The pages are in build/docs, and open from disk.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

# From what the tests have noted.
features: test-all
	$(VENV)/bin/python -m tests.features build/features/*.json \
	    --output docs/features.md

# Goes on where it was interrupted.
study: $(INSTALLED)
	$(VENV)/bin/python -m study --study_dir=runs/study

# Compares with the newest that is in build/bench.
bench: $(INSTALLED)
	$(VENV)/bin/python benchmarks/run_all.py --output=build/bench

clean:
	rm -rf $(VENV) runs build
