# Two commands for a fresh machine; each does all of its own set-up in .venv:
#   make demo   the main job: train, export, verify, benchmark, stream, on the embedded data set
#   make test   the tests; make check adds lint and types; PYTEST_OPTIONS=--cov shows which lines they reach
#   make soak   damaged and made-up input, for as long as SECONDS_EACH says for each kind

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SECONDS_EACH ?= 120
PYTEST_OPTIONS ?=
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test soak lint check clean

demo: $(VENV)/.all
	PATH="$(abspath $(BIN)):$$PATH" sh benchmarks/demo.sh

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(PYTEST_OPTIONS)

soak: $(VENV)/.dev
	EDGECLS_FUZZ_SECONDS=$(SECONDS_EACH) $(BIN)/python -m pytest tests/fuzz

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

clean:
	rm -rf $(VENV) runs

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.all: $(VENV)/.venv pyproject.toml constraints.txt
	$(PIP) --editable '.[all]'
	touch $@

# Model API asks for OpenCV's headless build, which would overwrite the files of the other build beside it, and Triton's
# client for an older ml-dtypes than others: --no-deps.
$(VENV)/.dev: $(VENV)/.all
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps openvino-model-api tritonclient
	touch $@
