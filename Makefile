PYTHON ?= python3
BIN = .venv/bin

CASES = computation_graphs descent stochastic_descent backpropagation training_loop regression_and_classification

.PHONY: train examples figures test test-oldest bench peers lint
.NOTPARALLEL:

train: .venv/.examples
	$(BIN)/python examples/digits.py

examples: .venv/.examples
	for name in $(CASES) digits; do $(BIN)/python examples/$$name.py || exit; done

figures: examples
	cp examples/output/*.png examples/figures

test: .venv/.test
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

# The same on the oldest versions that pyproject.toml allows, in an environment of its own.
test-oldest:
	$(PYTHON) -m venv --clear build/oldest
	sed -n 's/^dependencies = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '" ' | tr ',' '\n' | sed 's/>=/==/' > build/oldest/versions
	build/oldest/bin/pip install -qq --disable-pip-version-check -c build/oldest/versions -e '.[test]'
	build/oldest/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal

bench: .venv/.bench
	$(BIN)/python -m asv_benchmarks.peers --quick

# TORCH=1 installs PyPI's torch first, on Linux with gigabytes of CUDA; one that is there already takes part without it.
peers: .venv/.peers
	$(if $(TORCH),$(BIN)/pip install -qq --disable-pip-version-check torch==2.13.0)
	$(BIN)/python -m asv_benchmarks.peers --write

lint: .venv/.lint
	$(BIN)/ruff check
	rm -rf build/typed && mkdir -p build/typed/hotloop
	ln -s $(CURDIR)/engine/*.py build/typed/hotloop && ln -s $(CURDIR)/kernels build/typed/hotloop
	$(BIN)/mypy

# One environment; a stamp for each extra of pyproject.toml that was installed into it.
.venv/.%: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install -qq --disable-pip-version-check -e '.[$*]'
	touch $@

$(BIN)/pip:
	$(PYTHON) -m venv .venv
