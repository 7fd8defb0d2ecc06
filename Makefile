# The commands to know. Each makes what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo serve browser chaos test check lint fmt gpu bench sheet gallery clean

demo: $(STAMP)  ## a picture from a workflow file
	$(BIN)/mezzotint run workflows/txt2img.json --output output

serve: $(STAMP)  ## the service, with the editor, at http://127.0.0.1:8188
	$(BIN)/mezzotint serve

browser:  ## Debian's Chromium, for the tests that look at the editor
	apt-get update && apt-get install --yes --no-install-recommends chromium fonts-liberation

chaos: $(STAMP)  ## the long form of the crash tests: 200 kills over 50 jobs
	CHAOS=1 $(BIN)/python -m pytest tests/service/test_crash.py -m "not gpu" -s

# two processes of one thread each: most tests wait for something, or compute little
test: $(STAMP)  ## everything but the GPU checks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not gpu"

check: lint  ## style and types
	$(BIN)/mypy

lint: $(STAMP)  ## style alone: the quick part of `check`
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

gpu: $(STAMP)  ## the checks that need a CUDA device
	$(BIN)/python -m pytest -m gpu

bench: $(STAMP)  ## ratios measured in one run
	$(BIN)/python -m benchmarks

sheet: $(STAMP)  ## docs/images/samplers.png: every sampler with every schedule
	$(BIN)/python -m benchmarks.contact_sheet

gallery: $(STAMP)  ## docs/gallery.md: every workflow, run, with its pictures
	$(BIN)/python -m benchmarks.gallery

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
