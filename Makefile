# Set-up, tests and checks of star-edge; `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON ?= python3
VENV ?= .venv
PIP_INSTALL_ARGS ?=
TEST_JOBS ?= 2
TEST_ARGS ?=
PASSED ?=
FUZZ_SECONDS ?= 120
FUZZ_SEED ?= 0
DEMO_ARGS ?=
BENCH_ARGS ?=
WHEELS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/star-edge/wheels

comma := ,
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal
REQUIREMENTS := pyproject.toml constraints.txt
SYSTEM := PYTHON="$(PYTHON)" .ci/system-packages

# C++ is built in the environment, so that two environments of one clone do not share objects
NATIVE := $(abspath $(VENV))/native
NATIVE_SOURCES := $(shell find runtime/native/CMakeLists.txt $(addprefix runtime/native/,cmake include src tools) -type f)
NATIVE_FILES := $(shell find runtime/native exporters tests -name '*.c' -o -name '*.cpp' -o -name '*.cu' -o -name '*.h')
CONFIGURE := cmake -S runtime/native -D STAR_EDGE_WERROR=$(if $(CI),ON,OFF)
CTEST := ctest --output-on-failure --no-tests=error -j $(TEST_JOBS)

# one thread a process: tests run side by side, and results do not depend on the number of cores
test test-all fuzz: export OMP_NUM_THREADS := 1
export PYTHONHASHSEED := 0
# an environment whose making was interrupted can be a plain link to the system's Python: never install there
export PIP_REQUIRE_VIRTUALENV := 1

.PHONY: help demo test lint format bench native check test-all native-sanitize native-aarch64 native-fuzz fuzz pyg peers \
  tensorrt-rtx browser system clean

help:  ## this list
	@echo "make TARGET [VARIABLE=value ...]"
	@sed -n 's/^\([a-z0-9-]*\):.*## /  \1|/p' Makefile | column -t -s '|'
	@echo
	@echo "PYTHON=$(PYTHON)  interpreter of the virtual environment, 3.10 or newer"
	@echo "VENV=$(VENV)  where the virtual environment is"
	@echo "PIP_INSTALL_ARGS=  more arguments of each pip install"
	@echo "TEST_ARGS=  more arguments of pytest; TEST_JOBS=$(TEST_JOBS) processes"
	@echo "PASSED=  a file that keeps which tests have passed; make test and test-all leave those out"
	@echo "FUZZ_SECONDS=$(FUZZ_SECONDS)  time box of each half of make fuzz; FUZZ_SEED=$(FUZZ_SEED) its first seed"
	@echo "DEMO_ARGS=, BENCH_ARGS=  more arguments of star-edge demo and bench"

demo: system $(STAMPS)/demo  ## set up and run the whole pipeline; writes ./star-edge-demo
	$(BIN)/star-edge demo $(DEMO_ARGS)

test: system $(STAMPS)/dev  ## set up and run the quick tests
	$(PYTEST) -m "not slow" $(if $(PASSED),--passed=$(PASSED)) $(TEST_ARGS)

lint: system $(STAMPS)/dev  ## ruff, ruff format, clang-format and mypy, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(NATIVE_FILES)
	$(BIN)/mypy

format: system $(STAMPS)/dev  ## apply ruff's fixes and the formats
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE_FILES)

bench: system $(STAMPS)/demo  ## latency of every engine beside PyTorch, on the demo's bundle (made first if absent)
	@[ -d star-edge-demo/demo.star ] || $(BIN)/star-edge demo
	$(BIN)/star-edge bench star-edge-demo/demo.star $(BENCH_ARGS)

# every test once more, now with nothing left to skip for a missing package (CI leaves out what has passed by then: PASSED);
# last, so that its closing line is the last
check: lint native native-sanitize native-aarch64 native-fuzz pyg peers tensorrt-rtx browser fuzz test-all  ## all that CI runs

native: system $(STAMPS)/native  ## build and install the C++ runtime after a change, and run its tests
	$(CONFIGURE) -B $(NATIVE) -D STAR_EDGE_TESTS=ON
	cmake --build $(NATIVE)
	$(CTEST) --test-dir $(NATIVE)

native-sanitize: system  ## the C++ tests with address and undefined-behaviour sanitizers
	$(CONFIGURE) -B $(NATIVE)-sanitize -G Ninja -D STAR_EDGE_TESTS=ON -D STAR_EDGE_SANITIZE=address,undefined
	cmake --build $(NATIVE)-sanitize --target tests
	$(CTEST) --test-dir $(NATIVE)-sanitize

native-aarch64: system-cross  ## the C++ tests, compiled for aarch64 and emulated
	.ci/arm64-libraries $(NATIVE)-aarch64-libraries
	$(CONFIGURE) -B $(NATIVE)-aarch64 -G Ninja -D STAR_EDGE_TESTS=ON -D STAR_EDGE_FETCH=OFF \
	  --toolchain cmake/aarch64-linux-gnu.cmake -D CMAKE_PREFIX_PATH=$(NATIVE)-aarch64-libraries/usr
	cmake --build $(NATIVE)-aarch64
	$(CTEST) --test-dir $(NATIVE)-aarch64

native-fuzz: system-fuzz  ## the C++ readers with inputs that libFuzzer grows, FUZZ_SECONDS each
	$(CONFIGURE) -B $(NATIVE)-fuzz -G Ninja -D CMAKE_C_COMPILER=clang -D CMAKE_CXX_COMPILER=clang++ \
	  -D STAR_EDGE_FUZZ_SECONDS=$(FUZZ_SECONDS) -D STAR_EDGE_SANITIZE=address,undefined
	cmake --build $(NATIVE)-fuzz --target fuzzers
	$(CTEST) --test-dir $(NATIVE)-fuzz

test-all: system $(STAMPS)/dev  ## all tests, the slow ones too
	$(PYTEST) $(if $(PASSED),--passed=$(PASSED)) $(TEST_ARGS)

# a pass is every property test (marked so by hypothesis, or by hand where it is nested in a test) with a new seed; a
# failure names the seed that repeats it. Then every reader with inputs that libFuzzer grows from tests/fuzz/corpus
fuzz: system $(STAMPS)/fuzz  ## property tests with seed after seed, then readers with damaged files, FUZZ_SECONDS each
	@end=$$(( $$(date +%s) + $(FUZZ_SECONDS) )); seed=$(FUZZ_SEED); \
	while [ $$(date +%s) -lt $$end ]; do \
	  $(PYTEST) -q --no-header -m "hypothesis and not slow" --hypothesis-profile=fuzz --hypothesis-seed=$$seed $(TEST_ARGS) \
	    || { echo "make fuzz: failed with FUZZ_SEED=$$seed" >&2; exit 1; }; \
	  seed=$$((seed + 1)); \
	done; echo "make fuzz: no failure with seeds $(FUZZ_SEED) to $$((seed - 1))"
	$(BIN)/python tests/fuzz/fuzz.py --seconds $(FUZZ_SECONDS) --jobs $(TEST_JOBS)

pyg: system-headers $(STAMPS)/pyg  ## build and install torch-scatter and torch-sparse, the paper's own kernels
	@$(BIN)/python -c "import torch_scatter, torch_sparse"

peers: system $(STAMPS)/peers  ## install OpenVINO, which bench measures beside ours when it is named
	@$(BIN)/python -c "import openvino"

tensorrt-rtx: system $(STAMPS)/tensorrt-rtx  ## install TensorRT-RTX, which builds engines without a GPU
	@$(BIN)/python -c "import tensorrt_rtx"

browser: system-chromium $(STAMPS)/browser  ## install Playwright, and as root on Debian Chromium, to open the report's page in tests

system:  ## check for a C++ compiler, CMake and libraries; as root on Debian or Ubuntu, install them
	@$(SYSTEM)

system-%:
	@$(SYSTEM) $*

clean:  ## remove the virtual environment and caches; keeps star-edge-demo and runs
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info

# Stamps say what is installed. While pip is at work the environment's own stamp is set aside: an environment that an
# interrupted installation left half old and half new is made afresh instead of being trusted. One make at a time installs.
BUSY := { echo "another make is installing into $(VENV): call this one again when it is done" >&2; exit 1; }
define install
	@exec 9>$(STAMPS)/lock; flock --nonblock 9 || $(BUSY); \
	echo "Installing $(notdir $@) into $(VENV)"; \
	trap 'exit 130' INT TERM; \
	mv $(STAMPS)/venv $(STAMPS)/interrupted; \
	result=0; $(PIP) install $(if $(CI),--quiet) --constraint constraints.txt $(PIP_INSTALL_ARGS) $(1) || result=1; \
	mv $(STAMPS)/interrupted $(STAMPS)/venv; \
	[ $$result -eq 0 ] || { echo "pip could not install $(notdir $@); its message is above" >&2; exit 1; }; \
	touch $@
endef

$(STAMPS)/venv:
	@command -v "$(PYTHON)" >/dev/null \
	  || { echo "no '$(PYTHON)' here: apt-get install python3 python3-venv, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "star-edge needs Python 3.10 or newer, '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1); name another: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "'$(PYTHON)' cannot make virtual environments: apt-get install python3-venv" >&2; exit 1; }
	@[ ! -e $(STAMPS)/lock ] || flock --nonblock $(STAMPS)/lock true || $(BUSY)
	@if [ -e $(STAMPS)/interrupted ] || ! $(BIN)/python -c 'import pip, sys; sys.exit(sys.prefix == sys.base_prefix)' 2>/dev/null; then \
	  echo "Creating $(VENV) with $$("$(PYTHON)" -V)"; "$(PYTHON)" -m venv --clear $(VENV); \
	fi
	@mkdir -p $(STAMPS) && touch $@

# each of these builds the library, too; with its objects kept, that takes a second. They are thrown away where the build's
# own tools come from another place each time, as from pip's isolated environments: so the tools are installed, once
EDITABLE := --no-build-isolation --config-settings build-dir=$(NATIVE) --config-settings cmake.define.STAR_EDGE_WERROR=$(if $(CI),ON,OFF) --editable

$(STAMPS)/build-tools: $(REQUIREMENTS) $(STAMPS)/venv
	$(call install,scikit-build-core)

$(STAMPS)/native: $(NATIVE_SOURCES) $(STAMPS)/build-tools
	$(call install,$(EDITABLE) .)

$(STAMPS)/demo: $(REQUIREMENTS) | $(STAMPS)/native
	$(call install,$(EDITABLE) '.[train$(comma)calibrate$(comma)report]')

$(STAMPS)/dev: $(REQUIREMENTS) | $(STAMPS)/native
	$(call install,$(EDITABLE) '.[train$(comma)qat$(comma)report$(comma)dev]')

$(STAMPS)/fuzz: $(REQUIREMENTS) $(STAMPS)/dev
	$(call install,$(EDITABLE) '.[fuzz]')

$(STAMPS)/peers: $(REQUIREMENTS) $(STAMPS)/dev
	$(call install,$(EDITABLE) '.[peers]')

$(STAMPS)/tensorrt-rtx: $(REQUIREMENTS) $(STAMPS)/dev
	$(call install,$(EDITABLE) '.[tensorrt-rtx]')

$(STAMPS)/browser: $(REQUIREMENTS) $(STAMPS)/dev
	$(call install,$(EDITABLE) '.[browser]')

$(STAMPS)/pyg: $(REQUIREMENTS) $(STAMPS)/dev
	@wheels=$$(PYTHON=$(BIN)/python .ci/pyg-wheels "$(WHEELS)") && ln -sfn "$$wheels" $(STAMPS)/wheels
	$(call install,$(STAMPS)/wheels/*.whl)
