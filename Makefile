# make demo: all set-up, then the main job on the embedded engines.  make test: all set-up, lint, types, tests.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test slow lint mutation power field kernels tpu gpu engines engines-sglang engines-vllm engines-infinity bench docs clean

demo: $(READY)
	@echo "== isolation and equivalence on 20 search queries with their candidate passages =="
	$(BIN)/pytest -q tests/regression -k "isolation or equivalence" --mask-impl segment \
	  --workload pytest_multiitem/data/search_sample.jsonl
	@echo "== the built-in cases =="
	$(BIN)/pytest -q

# Threads of two workers that spin while they wait take the cores from each other: 51 s instead of 25 s for one file.
test slow: export OMP_WAIT_POLICY = PASSIVE
# The threads that NumPy's BLAS starts where it is imported spin too: 0.13 s of processor time for an import, not 0.06,
# in each of the hundreds of processes that tests start.
test slow: export OPENBLAS_NUM_THREADS = 1
# Where it is set, each of these processes compiles this package anew: an eighth of their processor time.
unexport PYTHONDONTWRITEBYTECODE

test: $(READY) lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow" --durations 25 tests/unit tests/plugin
	$(BIN)/pytest -n 2

# The project's own tests that `make test` leaves out because they take long.
slow: $(READY)
	$(BIN)/pytest -n 2 --dist loadfile -m slow -rs --durations 25 tests/unit tests/plugin

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The gates on builds with every known fault: each must be seen. A small part of it is in `make test`. On one backend:
# make power POWER="--backend jax"
POWER ?=
power: $(READY)
	$(BIN)/multiitem power $(POWER)

# Random wrong rows before healthy servers, and as many healthy servers: all of the first must FAIL, all of the second
# pass. A shorter one: make field FIELD="--faults 20 --healthy 20"
FIELD ?= --page docs/reference/field.md
field: $(READY)
	$(BIN)/python -m benchmarks.field $(FIELD)

# Do our own kernels compute the item mask, at every length that they can do? Exit status 1: one does not.
kernels: export OMP_WAIT_POLICY = PASSIVE
kernels: $(READY)
	$(BIN)/multiitem kernel-check pytest_multiitem.engine.kernel_cases:segment_torch
	$(BIN)/multiitem kernel-check pytest_multiitem.engine.kernel_cases:segment_pallas

# Does the segment kernel compile for TPUs, and do broken ones not? Needs no TPU, but libtpu: 213 MB to download, 690 MB
# on disk. It has a directory of its own, which `make clean` leaves alone: in the environment every JAX process loads it.
tpu: $(READY)
	test -d ".libtpu/libtpu-$$(sed -n 's/^libtpu==//p' constraints.txt).dist-info" || { rm -rf .libtpu && \
	  $(BIN)/python -m pip install -qq --no-deps -c constraints.txt --target .libtpu libtpu; }
	MULTI_ITEM_TPU_LIBTPU=.libtpu $(BIN)/multiitem tpu-check pytest_multiitem.engine.segment_kernel:tpu_case
	MULTI_ITEM_TPU_LIBTPU=.libtpu $(BIN)/pytest tests/tpu -rs
	MULTI_ITEM_TPU_LIBTPU=.libtpu $(BIN)/pytest -q tests/regression -k runs_on_tpu --backend jax --require segment_lowers

# Does our Triton kernel compile for GPUs, do broken ones not, are its numbers right, and does it compute the item mask?
# Needs no GPU, but Triton: 286 MB to download, 1 GB on disk. It has a directory of its own, as libtpu has.
gpu: export OMP_WAIT_POLICY = PASSIVE
# The interpreter's products are small: two threads of NumPy's take twice one's processor time, and no less time.
gpu: export OPENBLAS_NUM_THREADS = 1
gpu: $(READY)
	test -d ".triton/triton-$$(sed -n 's/^triton==//p' constraints.txt).dist-info" || { rm -rf .triton && \
	  $(BIN)/python -m pip install -qq --no-deps -c constraints.txt --target .triton triton; }
	MULTI_ITEM_GPU_TRITON=.triton $(BIN)/multiitem gpu-check pytest_multiitem.engine.triton_attention:gpu_case
	MULTI_ITEM_GPU_TRITON=.triton $(BIN)/pytest tests/gpu -rs
	PYTHONPATH=$(CURDIR)/.triton $(BIN)/multiitem kernel-check pytest_multiitem.engine.kernel_cases:segment_triton
	PYTHONPATH=$(CURDIR)/.triton $(BIN)/pytest tests/unit/test_triton_attention.py -rs

# Would the tests of the gates notice a wrong gate? Exit status 1 for a survivor that nobody has accepted.
mutation: $(READY)
	$(BIN)/python -m pip install -qq -c constraints.txt --group mutation
	$(BIN)/python tools/mutation.py

# Real servers to test against on a CPU, each in an environment of its own that `make clean` leaves alone: sglang, serial
# and packed (engines/sglang_mis_cpu stands in for FlashInfer), vLLM, and infinity, which reranks.
engines: engines-sglang engines-vllm engines-infinity

engines-sglang:
	engines/sglang-cpu.sh
	@echo "pytest --engine sglang --engine-python .engines/sglang-0.5.23/bin/python"

engines-vllm:
	engines/vllm-cpu.sh
	@echo "pytest --engine vllm --engine-python .engines/vllm-0.32.0/bin/python"

engines-infinity:
	engines/infinity-cpu.sh

# The documentation as a site, in build/site. A warning fails: a link that leads nowhere, a page that is on no map.
docs: $(READY)
	$(BIN)/python -m pip install -qq -c constraints.txt --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# How fast the embedded engines are beside what one would use instead: about 12 minutes on two cores with nothing else
# running. Exit status 1: a target is missed. With the real sglang where `make engines` has built its environment.
bench: $(READY)
	$(BIN)/python -m benchmarks.engine_speed

# The suites run under pytest-xdist here, where timing gates are NOT_RUN: whether the code is right must not
# depend on how busy the machine is. `make demo` and a plain `pytest` measure the speed-up as well.

# torch first and pinned: a range would let pip choose a build with gigabytes of accelerator libraries.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else "Python 3.11 to 3.13 is needed, %s is %d.%d; run: make PYTHON=python3.11 …" % (sys.executable, *v))'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade "pip>=25.1"
	$(BIN)/python -m pip install -qq -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install -qq -c constraints.txt --group dev -e ".[all]"
	@touch $@

clean:
	rm -rf $(VENV) .nox build dist mutants multiitem-results .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
