# Longtail's two commands are `make demo` and `make test`; everything else serves them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
UV_VERSION := 0.13.8
SPARK_VERSION := 4.0.1
STAMP := $(VENV)/.installed

DATASET ?= simulator
DATA ?=
DEMO_DIR ?= runs/demo
STAY ?=
PYTEST_ARGS ?=
FUZZ ?= 100000

# One thread a library: two cores are shared by processes, and results stay the same on any machine.
export OMP_NUM_THREADS ?= 2
export ITERATIVE_DO_NOT_TRACK := 1
# Generated tests walk over sets: the same seed makes them the same tests each time.
export PYTHONHASHSEED ?= 0

.PHONY: help install demo test check test-fast test-slow test-serving test-gpu test-spark lint format chart-docs manifests chart-test pipeline lock kills faults fuzz statistics drifts \
  images cluster cluster-down cluster-test cluster-e2e clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F '\t' '{printf "  make %-14s %s\n", $$1, $$2}'

install: $(STAMP) ## make .venv from requirements.lock (needs Python 3.11)

$(STAMP): requirements.lock pyproject.toml
	@python=; for candidate in python3.11 python3; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "make install: Python 3.11 is needed and was not found: install it, then run this again" >&2; exit 2; fi; \
	if [ ! -x $(PYTHON) ] || ! $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	  "$$python" -m venv $(VENV) || { echo "make install: Python's venv module does not work (on Debian: install python3-venv)" >&2; exit 2; }; \
	fi
	@$(BIN)/uv --version 2>/dev/null | grep -q " $(UV_VERSION)" || $(PYTHON) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@echo "make install: $$(grep -cE '^[A-Za-z0-9]' requirements.lock) packages into $(VENV), 1 to 2 minutes the first time"
	@if [ -t 2 ]; then (while sleep 1 && kill -0 $$$$; do printf '\r  %s s ' "$$SECONDS"; done) >&2 & trap "kill $$!; printf '\r' >&2" EXIT; fi; \
	$(BIN)/uv pip install --python $(PYTHON) --quiet --no-deps -r requirements.lock; \
	$(BIN)/uv pip install --python $(PYTHON) --quiet --no-deps -e .
	@touch $@

demo: install ## a shop from raw events to served lists; DATASET=online-retail DATA=<folder> for real purchases, STAY=1 to keep it up
	$(PYTHON) -m serving.demo --dataset "$(DATASET)" --data "$(DATA)" --out "$(DEMO_DIR)" $(if $(STAY),--stay)

test: install check ## lint, types, and every test but the slow ones; CI runs those after it
	$(PYTHON) -m pytest -q -m "not slow and not cluster and not chart" $(PYTEST_ARGS)

check: install lint
	$(PYTHON) -m pipelines.compile --check

test-fast: install ## only the tests that start no server and take seconds
	$(PYTHON) -m pytest -q -m "not slow and not serving and not cluster and not chart" $(PYTEST_ARGS)

test-slow: install ## the tests that take minutes: whole trainings, the demo, Kafka
	$(PYTHON) -m pytest -q -m "slow and not spark" $(PYTEST_ARGS)

test-serving: install ## only the tests that start the real servers
	$(PYTHON) -m pytest -q -m serving $(PYTEST_ARGS)

test-gpu: install ## what a GPU computes, beside what a CPU would have (the index only with faiss-gpu in the place of faiss-cpu)
	$(PYTHON) -m pytest -q -m gpu $(PYTEST_ARGS)

test-spark: install ## the feature expressions on a real Spark, bit for bit (brings pyspark into .venv; needs Java 17)
	@command -v java >/dev/null || { echo "make test-spark: Java 17 is needed and was not found: install it, then run this again" >&2; exit 2; }
	$(BIN)/uv pip install --python $(PYTHON) --quiet pyspark==$(SPARK_VERSION)
	$(PYTHON) -m pytest -q -m spark $(PYTEST_ARGS)

lint: install ## ruff, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## put the code into ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

kills: install ## kill -9 the collector 20 times under load, then again with Kafka behind it: what was lost, what doubled
	$(PYTHON) -m tests.serving.collector_crash --kills 20
	$(PYTHON) -m tests.serving.collector_crash --kills 20 --kafka

faults: install ## break every part under load: failed requests, empty lists, unsafe items, time to the full list again
	$(PYTHON) -m benchmarks.faults

fuzz: install ## 100,000 odd requests and events to the real servers, 10 minutes or so; FUZZ=<number> for fewer
	LONGTAIL_FUZZ=$(FUZZ) $(PYTHON) -m pytest -q -s tests/serving/test_fuzz.py

statistics: install ## count how often the statistics are wrong on a simulated shop: A/A, power, looks on any day, splits, interleaving; off-policy values (OPEN_BANDIT=<folder> for those of real clicks)
	@bad=0; $(PYTHON) -m benchmarks.statistics || bad=1; \
	$(PYTHON) -m benchmarks.offpolicy $(if $(OPEN_BANDIT),--data "$(OPEN_BANDIT)") || bad=1; exit $$bad

images: ## container images with buildah; BASE=<image> instead of one made of Debian's packages, IMAGES="retriever-gpu" for some
	./serving/images.sh .cluster/images $(IMAGES)

cluster: install ## a Kubernetes with simulated GPU nodes on loopback; make cluster-down ends it (tests/cluster/README.md)
	$(PYTHON) -m tests.cluster up

cluster-down: install ## end it and remove what it kept
	$(PYTHON) -m tests.cluster down

cluster-test: install ## the chart and the manifests on such a cluster; KUBECONFIG=<file> for one of yours
	$(if $(filter command line,$(origin KUBECONFIG)),LONGTAIL_KUBECONFIG="$(KUBECONFIG)") \
	  $(PYTHON) -m pytest -q -rs -m "cluster and not e2e" tests/cluster $(PYTEST_ARGS)

cluster-e2e: install ## the chart on a real node with real images, under load: needs root, buildah and containerd (tests/cluster/README.md)
	$(PYTHON) -m pytest -q -rs -s -m e2e tests/cluster $(PYTEST_ARGS)

chart-docs: install ## write the chart's schema and README from the comments of its values
	$(PYTHON) -m helm.chart_docs

manifests: install ## write manifests/ from the chart
	$(PYTHON) -m helm.manifests --helm "$$($(PYTHON) -m tests.cluster.tools helm)"

chart-test: install ## the chart and manifests under helm, helm-unittest, kustomize and promtool, which Go builds the first time
	$(PYTHON) -m pytest -q -rs -m chart $(PYTEST_ARGS) tests/helm

loop: install ## 90 days of shops whose recommender learns from its own lists: Longtail, without correction and exploration, popularity; docs/loop.png (an hour or two; LOOP_SEEDS=2 for less)
	$(PYTHON) -m benchmarks.loop $(if $(LOOP_SEEDS),--seeds $(LOOP_SEEDS)) --picture docs/loop.png

drifts: install ## put things wrong in a simulated shop: which check finds it, how soon, and false alarms on quiet days
	$(PYTHON) -m benchmarks.drifts

pipeline: install ## compile pipelines/*.yaml again after a change
	$(PYTHON) -m pipelines.compile

COMPILE = $(BIN)/uv pip compile pyproject.toml --python-version 3.11 --no-emit-index-url --no-header --quiet
# The hashes of what an image takes stand in requirements.lock. NCCL is for training on several GPUs; Feast and KServe name the others
# and serve without them.
TAKEN = $(COMPILE) --constraints requirements.lock --no-annotate $(patsubst %,--no-emit-package %,nvidia-nccl-cu12 mypy pillow grpcio-tools setuptools)

# XGBoost's wheel carries kernels for GPUs, 220 MB, that xgboost-cpu of the same version does without: trees are trained on CPUs.
# The rest is what Triton's Python wrapper would need, which is not used.
WRAPPED = xgboost nvidia-nccl-cu12 aiohappyeyeballs aiohttp aiosignal attrs brotli certifi frozenlist gevent geventhttpclient greenlet \
  grpcio idna importlib-metadata ml-dtypes multidict mypy-extensions propcache protobuf python-rapidjson pyzmq sh tritonclient \
  typing-inspect urllib3 wrapt yarl zipp zope-event zope-interface

# Training does without: trees grow on CPUs (xgboost-cpu again, no second NCCL), the compiler of 690 MB called triton is for torch.compile.
UNTRAINED = xgboost nvidia-nccl-cu12 triton mypy

lock: ## resolve requirements.lock again, and what each image takes of it
	@test -x $(BIN)/uv || { echo "make lock: run make install first" >&2; exit 2; }
	$(COMPILE) --generate-hashes --extra train --extra serve --extra dev --output-file requirements.lock
	for server in recommender retriever collector; do \
	  $(TAKEN) --extra $$server --output-file serving/$$server/requirements.txt; \
	done
	$(TAKEN) --extra ranker $(patsubst %,--no-emit-package %,$(WRAPPED)) --output-file serving/ranker/requirements.txt
	grep -om1 'xgboost==[0-9.]*' pyproject.toml | sed s/xgboost/xgboost-cpu/ | $(subst pyproject.toml,-,$(COMPILE)) --no-deps \
	  --generate-hashes --output-file serving/ranker/requirements-cpu.txt
	$(COMPILE) --constraints requirements.lock --no-annotate $(patsubst %,--no-emit-package %,$(UNTRAINED)) --extra train \
	  --output-file pipelines/requirements.txt
	grep -o 'faiss-gpu==[0-9.]*' pyproject.toml | $(subst pyproject.toml,-,$(COMPILE)) --constraints requirements.lock \
	  --generate-hashes --no-emit-package numpy --no-emit-package packaging --output-file serving/retriever/requirements-gpu.txt

clean: ## remove runs and caches, keep .venv
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
