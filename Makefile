# `make quickstart` and `make test` need Python (3.11 or later) and nothing else.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  && echo $$p && break; done)
PY := .venv/bin/python
ENVIRONMENT := .venv/installed

.PHONY: quickstart test test-all lint format benchmark results release-check \
  tpu clean

quickstart: $(ENVIRONMENT)
	$(PY) -m experiments.astra --config=configs/astra/digits.py:quick \
	  --workdir=build/quickstart

test: lint
	$(PY) -m pytest -n 2 --dist worksteal

test-all: lint
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(PY) -m pytest -n 2 --dist worksteal -m ''

lint: $(ENVIRONMENT)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m basedpyright --pythonpath $(PY)

format: $(ENVIRONMENT)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

benchmark: $(ENVIRONMENT)
	$(PY) -m scripts.benchmark
	$(PY) -m scripts.roofline
	$(PY) -m scripts.cold

results: $(ENVIRONMENT)
	$(PY) -m scripts.results

release-check: $(ENVIRONMENT)
	$(PY) -m scripts.release

# JAX for TPUs, in the version of requirements.lock; for scripts/tpu_host.sh.
tpu: $(ENVIRONMENT)
	$(PY) -m pip install --quiet --disable-pip-version-check \
	  -c requirements.lock 'jax[tpu]'

clean:
	rm -rf build .pytest_cache .ruff_cache

$(ENVIRONMENT): requirements.lock pyproject.toml
	@test -n '$(PYTHON)' || { echo \
	  'no Python 3.11 or later was found: install one, or say make PYTHON=...'; \
	  exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
