# The commands of a maintainer's day. Each sets itself up from a bare checkout; a second run is quick.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
# Installed before everything else and by exact version: a later requirement is then satisfied by it. Where pip would
# fetch a CUDA build for this name, install the CPU build into .venv first (see README) or set TORCH to its wheel.
TORCH ?= torch==2.13.0
VENV := .venv
OLDEST := .venv-oldest
WHEEL := .venv-wheel
# gradio holds Pillow below 13 in the development environment; the wheel is checked with the newest.
PILLOW := 13.0.0
QUIET := --quiet --disable-pip-version-check

bin := $(VENV)/bin
ready := $(VENV)/.ready
oldest_ready := $(OLDEST)/.ready

.PHONY: help demo test test-oldest lint types unit wheel-test bench release-box clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

$(ready): pyproject.toml constraints/newest.txt
	$(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install $(QUIET) "$(TORCH)"
	$(bin)/python -m pip install $(QUIET) -c constraints/newest.txt -e '.[train,trackers,eval,space,test]'
	touch $@

$(oldest_ready): pyproject.toml constraints/oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install $(QUIET) "$(TORCH)"
	$(OLDEST)/bin/python -m pip install $(QUIET) -c constraints/oldest.txt -e . pytest hypothesis
	touch $@

demo: $(ready) ## compress, rebuild and compare three photographs; writes demo/
	$(bin)/onedc demo --out demo

test: lint types unit wheel-test ## everything that must pass before a commit

lint: $(ready) ## ruff: rules and format
	$(bin)/ruff check .
	$(bin)/ruff format --check .

types: $(ready) ## pyright on the package, the Space and the benchmarks
	$(bin)/pyright

# A process for each core, with one thread: two threads for one of these small networks gain little.
unit: $(ready) ## pytest on the newest versions supported
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n auto

test-oldest: $(oldest_ready) ## save, load, compress and decompress on the oldest versions supported
	$(OLDEST)/bin/python -m pytest tests/test_oldest.py tests/test_import.py -W default

wheel-test: $(ready) ## build the wheel; install, use and train with it alone, away from the checkout and offline
	rm -rf dist $(WHEEL)
	$(bin)/python -m build --outdir dist . >/dev/null
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip install $(QUIET) "$(TORCH)"
	away="$$(mktemp -d)"; trap 'rm -rf "$$away"' EXIT; \
	sed 's/^pillow==.*/pillow==$(PILLOW)/' constraints/newest.txt > "$$away/constraints.txt"; \
	$(WHEEL)/bin/python -m pip install $(QUIET) -c "$$away/constraints.txt" dist/*.whl; \
	bin="$$PWD/$(WHEEL)/bin"; here="$$PWD"; export HF_HUB_OFFLINE=1 HF_HOME="$$away/home"; cd "$$away"; \
	"$$bin/onedc" demo --out demo; \
	test "$$(ls demo/*.odc | wc -l)" -ge 6; \
	"$$bin/python" -m pip install $(QUIET) -c constraints.txt "$$(ls "$$here"/dist/*.whl)[train]"; \
	mkdir photos; cp "$$here"/src/onedc_hf/box/pictures/*.jpg photos; cp "$$here/pipelines/train_onedc.py" .; \
	"$$bin/python" train_onedc.py --config box-stage2 --train_data_dir photos --exclude --output_dir run \
		--resolution 128 --train_batch_size 1 --max_train_steps 2 --adversary_warmup_steps 0; \
	"$$bin/onedc" decompress "$$(ls demo/*.odc | head -1)" --model ./run/pipeline -o trained.png

bench: $(ready) ## seconds and peak memory at 768x512 on two threads; writes benchmarks/results/speed.json
	$(bin)/python benchmarks/speed.py

# make release-box CANDIDATE=runs/box/pipeline
CANDIDATE ?= box-stage1/pipeline
PHOTOGRAPHS ?= ../shared/data/train
KODAK ?= ../shared/data/kodak
release-box: $(ready) ## the one way new weights enter the repository (CONTRIBUTING.md)
	$(bin)/python -m onedc_hf.training.release $(CANDIDATE) --photographs $(PHOTOGRAPHS) --kodak $(KODAK)

clean: ## remove environments and builds
	rm -rf $(VENV) $(OLDEST) $(WHEEL) build dist
