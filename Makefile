PYTHON ?= python3
BIN = .venv/bin

CASES = computation_graphs descent stochastic_descent backpropagation training_loop regression_and_classification

.PHONY: train examples figures test test-oldest test-gpu bench peers peers-gpu lint
.NOTPARALLEL:

train: .venv/.examples
	$(BIN)/python examples/digits.py

examples: .venv/.examples
	for name in $(CASES) digits; do $(BIN)/python examples/$$name.py || exit; done

figures: examples
	cp examples/output/*.png examples/figures

# Compiling for CUDA devices has processes of its own, which share nothing with the other tests.
PYTEST = -m pytest -n auto --maxprocesses 8 --dist worksteal

test: .venv/.test
	$(BIN)/python $(PYTEST) --ignore=tests/test_cuda_ptx.py
	$(BIN)/python $(PYTEST) tests/test_cuda_ptx.py

# The same on the oldest versions that pyproject.toml allows, in an environment of its own.
test-oldest:
	$(PYTHON) -m venv --clear build/oldest
	sed -n 's/^dependencies = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '" ' | tr ',' '\n' | sed 's/>=/==/' > build/oldest/versions
	build/oldest/bin/pip install -qq --no-compile --disable-pip-version-check -c build/oldest/versions -e '.[test]'
	build/oldest/bin/python $(PYTEST) --ignore=tests/test_cuda_ptx.py
	build/oldest/bin/python $(PYTEST) tests/test_cuda_ptx.py

# The CUDA tests on a device, not in the simulator; CUDA is the driver's version, 12 or 13.
CUDA = 12
GPU = build/gpu/bin

test-gpu: build/gpu/.cuda$(CUDA)
	NUMBA_ENABLE_CUDASIM=0 $(GPU)/python -m pytest tests/test_cuda_ops.py tests/test_cuda_networks.py \
		tests/test_cuda_arrays.py tests/test_cuda_graphs.py
	$(if $(shell command -v compute-sanitizer),,@echo "compute-sanitizer is not installed: nothing more is checked")
	$(if $(shell command -v compute-sanitizer),for tool in memcheck racecheck synccheck; do \
		compute-sanitizer --tool $$tool --error-exitcode 1 $(GPU)/python tests/sanitized.py || exit; done)

# Beside torch and JAX, if they are there: install those builds that know the device into build/gpu first.
peers-gpu: build/gpu/.cuda$(CUDA)
	$(GPU)/python -m asv_benchmarks.peers --device --json build/peers-gpu.json \
		--only tiny,small,mnist,mid,large,4096-4096-4096-4096@4096

build/gpu/.cuda%: pyproject.toml
	$(PYTHON) -m venv build/gpu
	$(GPU)/pip install -qq --no-compile --disable-pip-version-check -e '.[checks,cuda$*]'
	touch $@

bench: .venv/.bench
	$(BIN)/python -m asv_benchmarks.peers --quick

# TORCH=1 installs PyPI's torch first, on Linux with gigabytes of CUDA; one that is there already takes part without it.
peers: .venv/.peers
	$(if $(TORCH),$(BIN)/pip install -qq --no-compile --disable-pip-version-check torch==2.13.0)
	$(BIN)/python -m asv_benchmarks.peers --write

lint: .venv/.lint
	$(BIN)/ruff check
	rm -rf build/typed && mkdir -p build/typed/hotloop
	ln -s $(CURDIR)/engine/*.py build/typed/hotloop && ln -s $(CURDIR)/kernels build/typed/hotloop
	$(BIN)/mypy

# One environment; a stamp for each extra of pyproject.toml that was installed into it. Python compiles what it imports:
# half of the time that pip takes is for byte code that nobody reads.
.venv/.%: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install -qq --no-compile --disable-pip-version-check -e '.[$*]'
	touch $@

$(BIN)/pip:
	$(PYTHON) -m venv .venv
