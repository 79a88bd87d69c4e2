# make train | sweep | atlas | finetune | arena | test | test-all | extras | launchers | lint | docs | bench     ARGS="…" passes Hydra overrides (train) or pytest options (test)
PY ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PYTHON ?= $(or $(wildcard $(BIN)/python),python3)

.PHONY: train sweep atlas finetune arena test test-all extras launchers lint docs bench gpu help
help: ; @sed -n 1p Makefile

$(STAMP): requirements.lock pyproject.toml
	$(PY) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps torchcfm==1.0.7  # its own tail breaks CPU machines
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -c "import lightning, torchcfm, hydra"  # fails at once where a CUDA torchvision got in
	touch $@

train: $(STAMP)
	$(BIN)/python launch/train.py $(ARGS)

sweep: $(STAMP)  # two couplings, two paths and two seeds in the plane, a minute or two on two cores: study.html; again: it goes on
	OMP_NUM_THREADS=1 $(BIN)/python launch/train.py -m sweep=plane $(ARGS)

atlas: $(STAMP)  # 36 ordered pairs of domains, two couplings, three seeds: about 75 minutes on two free cores; again: it goes on; then the page of results
	OMP_NUM_THREADS=1 $(BIN)/python launch/train.py -m sweep=atlas hydra.sweep.dir=outputs/sweep/atlas/all $(ARGS)
	$(BIN)/python docs/generate.py --atlas outputs/sweep/atlas/all

finetune: $(STAMP)
	$(BIN)/python launch/finetune.py $(or $(ARGS),experiment=finetune_digits_to_mnist)

arena: $(STAMP)  # which method reaches a known tilt: about two hours on two cores; finished jobs are not run again; -: a rival that runs away is refused
	set -e; for sweep in arena arena_unseen arena_controls arena_particles; do \
	OMP_NUM_THREADS=1 $(BIN)/python launch/arena.py sweep=$$sweep $(ARGS); done
	-for sweep in arena_forward arena_rivals; do OMP_NUM_THREADS=1 $(BIN)/python launch/arena.py sweep=$$sweep $(ARGS); done
	$(BIN)/python launch/arena.py draw=outputs/arena/all
	$(BIN)/python docs/generate.py --arena outputs/arena/all

test: $(STAMP)  # the fast lane
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" $(ARGS)

COVERAGE ?= --cov=flowport
LANE := -n auto --dist worksteal --durations=20
# The fast lane checks shapes and types at every call of flowport; the slow one does not, which is three times as fast.
# Exit status 5: ARGS chose no test of this lane.
test-all: $(STAMP)  # both lanes; prints the share of lines of every module that the tests run (COVERAGE= : not, which is faster) and the slowest tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(LANE) -m "not slow and not cluster" $(COVERAGE) $(COVERAGE:%=--cov-report=) $(ARGS) || [ $$? = 5 ] || failed=1; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(LANE) -m "slow and not cluster" -o addopts=-q $(COVERAGE) $(COVERAGE:%=--cov-append --cov-report=term:skip-covered) $(ARGS) || [ $$? = 5 ] || failed=1; \
	[ -z "$$failed" ]

EXTRAS := diffusers==0.42.1 mlflow==3.17.2 optuna==5.0.0 peft==0.21.2 transformers==5.24.0 wandb==0.31.0
extras: $(STAMP)  # the libraries of optional parts, and the tests that wait for them
	$(BIN)/pip install -q --disable-pip-version-check -c requirements.lock $(EXTRAS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/agreement tests/field/test_pretrained.py tests/reward/test_clip.py tests/finetuning/test_adapters.py tests/run/test_search.py $(ARGS)

launchers: $(STAMP)  # Ray, and the tests of sweeps on Ray and, where it is installed (slurm-wlm, munge), on Slurm
	$(BIN)/pip install -q --disable-pip-version-check -c requirements.lock ray==2.60.0
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -m cluster tests/run/test_slurm.py tests/run/test_ray.py tests/run/test_launchers.py $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check src launch tests
	$(BIN)/ruff check src launch tests
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks $(ARGS)

gpu:  # on a machine with CUDA: its tests and benchmarks, ARGS="list" names the parts; installs nothing: PYTHON=… is any environment
	PYTHONPATH=src $(PYTHON) -m tests.benchmarks.gpu $(ARGS)

DOCS := mkdocs-material==9.8.2 mkdocstrings[python]==1.0.8
docs: $(STAMP)  # builds site/ without a warning, or fails
	$(BIN)/pip install -q --disable-pip-version-check -c requirements.lock $(DOCS)
	$(BIN)/mkdocs build --strict -q
