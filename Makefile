# Every target sets up what it needs in .venv; set-up happens once for each pyproject.toml and
# constraints.txt. TORCH_INDEX=URL names another package index for torch (CPU-only or CUDA).
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.merkhet-installed
EXTRAS := text,parquet,hf,export,docs,dev
SOURCES := src tests benchmarks docs examples

.PHONY: setup demo test lint format bench docs picture browser clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11 to 3.13 is needed: make PYTHON=python3.11"; exit 2; }
	@echo "setting up .venv (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
ifdef TORCH_INDEX
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
		--index-url $(TORCH_INDEX) torch
endif
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/merkhet demo --out report.html

test: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(STAMP)
	@for file in benchmarks/*.py; do echo "$$file"; $(BIN)/python $$file || exit 1; done

docs: $(STAMP)
	@$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

# The README's picture: the demo's report in headless Chromium.
picture: demo
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1000,900 \
		--user-data-dir=$$(mktemp -d) --screenshot=docs/report.png file://$(CURDIR)/report.html

# The demo's report in a real browser: console, figures, width; screenshots in runs/browser.
browser: demo
	$(BIN)/python tests/browser/check_report.py report.html runs/browser

clean:
	rm -rf .venv docs/_build docs/generated runs report*.html report*.json
