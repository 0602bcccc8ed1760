# `make train` and `make test` each do everything: environment, data, job. Both are idempotent.
PYTHON ?= python3
VENV ?= .venv
DATA ?= data
comma := ,
BIN := $(VENV)/bin
# All GPUs, or two processes without a GPU.
LAUNCH = $(BIN)/python -m deepspeed.launcher.runner --master_port $$($(BIN)/python -c \
	'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])') \
	$(if $(shell command -v nvidia-smi),,--num_accelerators 2)

.PHONY: install train sample-data docs test lint test-fast test-slow test-scale test-cluster test-gpu gpu-carry bench speedrun speedrun-all record-check soak fuzz audit clean

install: $(VENV)/installed
	@command -v g++ >/dev/null || echo "g++ is not installed, and the tests need it (Debian: apt-get install g++)"

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet 'torch>=2.11,<2.14' # first: the packages below build against it
	$(BIN)/pip install --quiet --editable . --group dev
	touch $@

train: install sample-data
	PATH="$(abspath $(BIN)):$$PATH" $(LAUNCH) launch/train.py --ds_config ds_configs/sample.json --data $(DATA)
	$(BIN)/python -m bertds fill runs/sample/main \
		"Later the ranger in the forest will be catching the strange [MASK] with her rifle again."
	$(BIN)/python -m bertds fill runs/sample/main \
		"지금 그 기자가 그 편집자를 위해 그녀의 [MASK] 아름다운 기사를 혼자 치고 있다."

sample-data: install
	$(BIN)/python -m data_prep sample --out $(DATA)/sample/text
	$(BIN)/python -m data_prep tokenizer --input $(DATA)/sample/text/ko.txt,$(DATA)/sample/text/en.txt \
		--merges 1200 --lowercase --out $(DATA)/sample/tokenizer.json
	$(BIN)/python -m data_prep shard --input $(DATA)/sample/text/ko.txt,$(DATA)/sample/text/en.txt \
		--tokenizer $(DATA)/sample/tokenizer.json --nospecial_tokens --out $(DATA)/sample

# The documentation at http://127.0.0.1:8000, rebuilt when a page changes.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

test: lint test-fast

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir site

test-fast: install
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -m "not slow and not cluster" \
		-n 2 --dist loadfile --no-loadscope-reorder --durations 80

test-slow: install
	PATH="$(abspath $(BIN)):$$PATH" BERTDS_HYPOTHESIS=new $(BIN)/python -m pytest -m slow --timeout 3600
	PATH="$(abspath $(BIN)):$$PATH" BERTDS_HYPOTHESIS=new $(BIN)/python -m pytest -m "not slow" \
		tests/config tests/data tests/optim tests/test_cli.py

# The same training at any scale, and exact resume, in full: part of test-slow.
test-scale: install
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -m slow --timeout 3600 \
		tests/end_to_end/test_batch_invariance.py tests/end_to_end/test_exact_resume.py \
		tests/engine tests/checkpoint

# As root, with Debian's slurm-wlm, munge, openssh-server, pdsh and iproute2. Skips what is not installed.
test-cluster: install
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -m cluster --timeout 1800

# Needs a GPU; skipped without one. Installs nothing if .venv or $(PYTHON) has all that the tests
# need, so that it runs without network. Only the files of these tests are collected.
test-gpu:
	@for python in $(BIN)/python $(PYTHON); do \
		if $$python -m benchmarks.gpu_once.wheels >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then $(MAKE) install && found=$(BIN)/python || exit 1; fi; \
	PATH="$$(dirname $$(command -v $$found)):$$PATH"; \
	$$found -m pytest -m gpu $$(grep -rl --include='test_*.py' 'mark\.gpu' tests)

# Collects packages and data for a machine with a GPU and without network in data/gpu_carry. Copy it, and
# run `python3 -m benchmarks.gpu_once` there.
gpu-carry: install
	$(BIN)/python -m benchmarks.gpu_once.carry --corpus $(CORPUS) --out $(DATA)/gpu_carry

# TEXT=train,valid and TASK=train,valid: see benchmarks/speedrun/README.md. Resumable.
speedrun speedrun-all: install
	$(BIN)/python -m benchmarks.speedrun $(if $(findstring all,$@),--all) \
		--train $(word 1,$(subst $(comma), ,$(TEXT))) --valid $(word 2,$(subst $(comma), ,$(TEXT))) \
		--task_train $(word 1,$(subst $(comma), ,$(TASK))) --task_valid $(word 2,$(subst $(comma), ,$(TASK)))

# CORPUS: a directory with {ko,en}.train.txt.gz. Takes hours; each line can be run alone.
CORPUS ?= $(BERTDS_CORPUS)
BENCH = $(BIN)/python -m benchmarks.performance.$(1) --corpus $(CORPUS) --data $(DATA)/bench

bench: install
	$(call BENCH,sharding)
	$(call BENCH,dataloader)
	$(call BENCH,engine_overhead)
	$(call BENCH,train_step)
	$(call BENCH,sharding_memory)

# Regenerates docs/reproduction from the committed metrics; fails if a file differs.
record-check: install
	$(BIN)/python -m benchmarks.reproduction.publish --check

# Takes an hour: random faults, then a run without faults. Needs root to fill a small disk.
SOAK_MINUTES ?= 45

soak: install
	$(BIN)/python -m benchmarks.fault_injection.soak --work $(DATA)/soak --minutes $(SOAK_MINUTES)

# Any bytes into the readers of shards and indexes; what fails is written to found-…
FUZZ_MINUTES ?= 20

fuzz: install
	$(BIN)/pip install --quiet atheris
	mkdir -p $(DATA)/fuzz
	PYTHONPATH=. $(BIN)/python tests/data/shards/fuzz_readers.py $(DATA)/fuzz -artifact_prefix=found- \
		-max_total_time=$$(( 60 * $(FUZZ_MINUTES) )) -max_len=400 -timeout=20 -rss_limit_mb=2048

# Known vulnerabilities of what is installed; asks PyPI, and lists as skipped what it found nothing of.
audit: install
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet pip-audit
	$(VENV)-audit/bin/pip-audit --skip-editable --path $$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')

clean:
	rm -rf $(VENV) $(VENV)-audit $(DATA)/sample runs/sample
