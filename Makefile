# `make demo` and `make test` need Python >= 3.10 and nothing else; they make
# .venv and install into it. PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
YAML := hparams recipes mkdocs.yml .github .pre-commit-config.yaml
bin := $(abspath $(VENV))/bin

.PHONY: install demo test test-slow test-versions bench lint types docs speechbrain-checks clean
.DEFAULT_GOAL := install

install: $(VENV)/.installed

# uv installs several times faster than pip; pip does it where uv cannot.
$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install -q uv && \
	VIRTUAL_ENV=$(abspath $(VENV)) $(bin)/uv pip install -q \
	    -c constraints.txt -e '.[test]' \
	|| $(bin)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

# Train a small network on generated speech, then ask it who speaks.
demo: install
	$(bin)/amsincnet demo-corpus $(DEMO)/corpus --speakers 10
	$(bin)/amsincnet train hparams/demo.yaml \
	    --data_folder=$(DEMO)/corpus --output_folder=$(DEMO)/results
	@echo
	@echo "Who speaks in a sentence the network has not heard?"
	$(bin)/amsincnet identify $(DEMO)/results \
	    "$$(ls $(DEMO)/corpus/TRAIN/DR1/*/SI*.WAV | head -n 1)"

# A process for each core, but the memory of four at most. A test that hangs
# is ended, and shows where its threads are.
test: install
	$(bin)/python -m pytest -q -n auto --maxprocesses=4 --dist=loadfile \
	    --timeout=600

# Minutes: kill loops, many fuzz cases, a corpus of VoxCeleb's size, the tour.
test-slow: install
	$(bin)/python -m pip install -q -e '.[test-slow]'
	$(bin)/python -m pytest -q -s -m slow tests
	FUZZ_CASES=10000 $(bin)/python -m pytest -q -W ignore tests/unit/test_fuzz.py

# The oldest and newest versions that setup.py allows, a Python after another;
# minutes each, and gigabytes. PYTHONS="3.11 3.13" and SETS=lowest choose.
PYTHONS ?= 3.10 3.11 3.12 3.13
SETS ?= lowest constraints newest
test-versions: install
	$(bin)/python tests/versions.py --pythons $(PYTHONS) --sets $(SETS)

# On a CPU; with --device cuda the same benchmarks are for a GPU.
bench: install
	$(bin)/python tests/benchmarks/train_step.py
	$(bin)/python tests/benchmarks/train_step.py --network sinc_tdnn
	$(bin)/python tests/benchmarks/evaluation.py
	$(bin)/python tests/benchmarks/evaluation.py --network sinc_tdnn

lint: install
	$(bin)/python -m pip install -q -e '.[lint]'
	$(bin)/ruff check . && $(bin)/ruff format --check .
	$(bin)/yamllint -c .yamllint.yaml $(YAML)

# The type hints of the public names.
types: install
	$(bin)/python -m pip install -q -e '.[types]'
	$(bin)/mypy

# The documentation as a site, in site/; open site/index.html. Its search needs a
# server: python -m http.server -d site
docs: install
	$(bin)/python -m pip install -q -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build -q --strict

# SpeechBrain's own checks and scripts, from a checkout of it:
# make speechbrain-checks SPEECHBRAIN=/path/to/speechbrain
speechbrain-checks: install
	SPEECHBRAIN_CHECKOUT="$(abspath $(SPEECHBRAIN))" \
	    $(bin)/python -m pytest tests/integration/test_speechbrain_checks.py

clean:
	rm -rf $(VENV) $(DEMO) build site *.egg-info
