# make demo     train digits in two minutes, sample, judge, write a report      make test    the test suite
# make check    format, lint, types, import contracts and tests                 make slurm, make slow    the longer suites
.PHONY: demo test check format slow slurm slurm-again bench clean
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/demo
SEED ?= 0

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt "torch>=2.10"
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[dev,hub,cluster]"
	touch $@

demo: .venv/installed
	$(BIN)/limner train digits --out $(RUN) --resume
	$(BIN)/limner sample $(RUN) "a handwritten digit 0" "the number one, handwritten" "2" "a handwritten digit three" "four" \
		"handwritten number 5" "the digit 6 drawn by hand" "seven" "a handwritten digit 8" "handwritten number nine" \
		--num 10 --seed $(SEED) --out $(RUN)/demo
	$(BIN)/limner eval $(RUN) --num 1000
	@echo "look at $(RUN)/report.html and $(RUN)/demo/grid.png"

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

format: .venv/installed
	$(BIN)/ruff format src tests benchmarks notebooks
	$(BIN)/ruff check --fix --quiet src tests benchmarks notebooks || true

check: .venv/installed
	$(BIN)/ruff format --check src tests benchmarks notebooks
	$(BIN)/ruff check src tests benchmarks notebooks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

slow: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

slurm: .venv/installed
	$(BIN)/python -m pytest -m slurm tests/slurm

slurm-again: .venv/installed
	$(BIN)/python -m pytest -m slurm --last-failed --last-failed-no-failures none tests/slurm

bench: .venv/installed
	$(BIN)/python benchmarks/bench_startup.py
	$(BIN)/python benchmarks/bench_training.py
	$(BIN)/python benchmarks/bench_sampling.py

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
