# Reverie's commands. `make demo` and `make test` set everything up by themselves.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
REVERIE := $(BIN)/reverie
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: $(shell grep -oE '^[a-z-]+:' $(firstword $(MAKEFILE_LIST)) | tr -d :)

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

setup: $(VENV)/.runtime ## install the locked packages into .venv (GPU=1 for the GPU builds)

demo: $(VENV)/.runtime ## the main job on the shipped models; writes out/demo/index.html
	$(REVERIE) demo

test: $(VENV)/.dev ## unit tests, and service tests against the embedded Triton; ARGS="-n 0 -k gatys"
	$(BIN)/pytest -n 2 $(ARGS)

test-fast: $(VENV)/.dev ## what needs no server and takes no long time: within a minute
	$(BIN)/pytest -n 2 -m "not service and not slow" $(ARGS)

lint: $(VENV)/.dev ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

serve: $(VENV)/.runtime ## serve model_repository on 127.0.0.1:8001 (gRPC); ARGS="--http" also on :8000, ARGS="--weights-dir ..."
	$(REVERIE) serve $(ARGS)

train-lm: $(VENV)/.runtime ## train a language model; PRESET=book|reviews DATA=archive or folder (default: download IMDB) ARGS=...
	$(REVERIE) train lm $(if $(PRESET),--preset $(PRESET)) $(if $(DATA),--data $(DATA)) $(ARGS)

eval-lm: $(VENV)/.runtime ## measure the published language model, or a RUN, on the test reviews; DATA=archive or folder ARGS="--all"
	$(REVERIE) eval $(if $(RUN),lm --run $(RUN),served) $(if $(DATA),--data $(DATA)) $(ARGS)

train-style: $(VENV)/.runtime ## train the style network; STYLES="a.jpg b.jpg" CONTENT=photos/ (default: download) WEIGHTS=folder ARGS=...
	@[ -n "$(STYLES)$(findstring --run,$(ARGS))" ] || { echo 'say which paintings: make train-style STYLES="painting.jpg" [CONTENT=photos/]'; exit 2; }
	$(REVERIE) train style $(foreach s,$(STYLES),--style $(s)) $(if $(CONTENT),--content $(CONTENT)) $(if $(WEIGHTS),--weights-dir $(WEIGHTS)) $(ARGS)

add-style: $(VENV)/.runtime ## teach a trained style network one more style; STYLE=painting.jpg [NAME=...] [RUN=folder] CONTENT=photos/ WEIGHTS=folder ARGS=...
	@[ -n "$(STYLE)$(findstring --run,$(ARGS))" ] || { echo 'say which painting: make add-style STYLE=painting.jpg [NAME=...]'; exit 2; }
	$(REVERIE) train add-style $(if $(STYLE),--style $(STYLE)) $(if $(NAME),--name $(NAME)) $(if $(RUN),--from $(RUN)) $(if $(CONTENT),--content $(CONTENT)) $(if $(WEIGHTS),--weights-dir $(WEIGHTS)) $(ARGS)

eval-style: $(VENV)/.eval ## measure the published style network, or a RUN, on held-out photos; STYLES="a.jpg b.jpg" PHOTOS=folder [CLASSIFIER=file.tflite] [AGAINST="5 runs/..."] WEIGHTS=folder ARGS=...
	@[ -n "$(STYLES)" ] || { echo 'say which paintings: make eval-style STYLES="painting.jpg" [PHOTOS=photos/]'; exit 2; }
	$(REVERIE) eval style $(foreach s,$(STYLES),--style $(s)) $(if $(RUN),--run $(RUN)) $(foreach a,$(AGAINST),--against $(a)) $(if $(PHOTOS),--photos $(PHOTOS)) $(if $(CONTENT),--content $(CONTENT)) $(if $(CLASSIFIER),--classifier $(CLASSIFIER)) $(if $(WEIGHTS),--weights-dir $(WEIGHTS)) $(ARGS)

train-features: $(VENV)/.runtime ## train the compact feature extractor; CONTENT=photos/ WEIGHTS=folder ARGS=...
	$(REVERIE) train features $(if $(CONTENT),--content $(CONTENT)) $(if $(WEIGHTS),--weights-dir $(WEIGHTS)) $(ARGS)

export: $(VENV)/.runtime ## publish the newest finished runs; MODEL=style|language_model RUN=folder PRECISION=int8|float32 ARGS="--label canary"
	$(REVERIE) export $(if $(MODEL),--model $(MODEL)) $(if $(RUN),--run $(RUN)) $(if $(PRECISION),--precision $(PRECISION)) $(ARGS)

export-check: $(VENV)/.runtime ## retrain tiny models and take them into service, canary and back under load; JSON on the last line
	@$(BIN)/python -m benchmarks.export_check $(ARGS)

configs: $(VENV)/.runtime ## write every config.pbtxt from its description; ARGS=--check
	$(REVERIE) configs $(ARGS)

gpu-check: $(VENV)/.runtime ## every ONNX model on an NVIDIA GPU beside the CPU; says so where there is none
	@$(BIN)/python -m benchmarks.gpu_check $(ARGS)

loadtest: $(VENV)/.runtime ## a minute of the default mix on a server of its own; ADDRESS=host:port for a running one ARGS="--open --rate 4"
	$(BIN)/python -m loadtests.run $(if $(ADDRESS),--address $(ADDRESS)) $(ARGS)

loadtest-capacity: $(VENV)/.runtime ## the highest rate of each endpoint within its objectives, then three times that; ADDRESS= ARGS=
	@$(BIN)/python -m loadtests.capacity $(if $(ADDRESS),--address $(ADDRESS)) $(ARGS)

loadtest-compare: $(VENV)/.runtime ## two running servers under the same load, in turns; A=host:port B=host:port ARGS=
	@[ -n "$(A)" ] && [ -n "$(B)" ] || { echo 'say which servers: make loadtest-compare A=127.0.0.1:8001 B=127.0.0.1:9001'; exit 2; }
	@$(BIN)/python -m loadtests.compare $(A) $(B) $(ARGS)

loadtest-soak: $(VENV)/.runtime ## an hour of the default mix, and how the server's memory grows; ADDRESS= ARGS="--seconds 28800"
	@$(BIN)/python -m loadtests.soak $(if $(ADDRESS),--address $(ADDRESS)) $(ARGS)

fuzz: $(VENV)/.runtime ## 20,000 almost right requests; no crash, no hang, no internal error; ADDRESS= ARGS="--requests 2000 --seed 7"
	@$(BIN)/python -m loadtests.fuzz.run $(if $(ADDRESS),--address $(ADDRESS)) $(ARGS)

fuzz-parsers: $(VENV)/.fuzz ## coverage-guided bytes for the readers of pictures, parameters and texts (atheris); ARGS="--runs 1000000"
	@$(BIN)/python -m loadtests.fuzz.parsers $(ARGS)

faults: $(VENV)/.runtime ## kill, stop, starve and clog a running server under clients, and see it come back; ARGS="--vanishing 100 --only triton_killed"
	@$(BIN)/python -m loadtests.faults.run $(ARGS)

bench-features: $(VENV)/.runtime ## how far the compact features carry transfers and dreams; STYLES="a.jpg b.jpg" WEIGHTS=folder with ImageNet weights
	@$(if $(WEIGHTS),REVERIE_WEIGHTS_DIR=$(WEIGHTS)) $(BIN)/python -m benchmarks.compact_features $(foreach s,$(STYLES),--style $(s))

bench-gatys: $(VENV)/.dev ## style transfer beside the book's loop; DATA=folder with chicago.jpg, styles/starry_night.jpg and VGG19's weights
	@$(BIN)/python -m benchmarks.gatys --data $(DATA) $(ARGS)

bench-dream: $(VENV)/.dev ## DeepDream beside the book's loop; DATA=folder with chicago.jpg and InceptionV3's weights
	@$(BIN)/python -m benchmarks.dream --data $(DATA) $(ARGS)

bench-style: $(VENV)/.bench ## milliseconds a picture beside Johnson's network; STYLES="a.jpg b.jpg" PHOTOS=held-out/ CLASSIFIER=file WEIGHTS=folder for the quality too
	@$(if $(WEIGHTS),REVERIE_WEIGHTS_DIR=$(WEIGHTS)) $(BIN)/python -m benchmarks.style $(foreach s,$(STYLES),--style $(s)) $(if $(PHOTOS),--photos $(PHOTOS)) $(if $(CLASSIFIER),--classifier $(CLASSIFIER)) $(ARGS)

bench-distillation: $(VENV)/.runtime ## what copying a teacher buys a style network; STYLES="a.jpg b.jpg" CONTENT=photos/ WEIGHTS=folder TEACHER=run
	@$(if $(WEIGHTS),REVERIE_WEIGHTS_DIR=$(WEIGHTS)) $(BIN)/python -m benchmarks.distillation $(foreach s,$(STYLES),--style $(s)) --content $(CONTENT) --teacher $(TEACHER) $(ARGS)

bench-text: $(VENV)/.bench ## tokens per second beside CTranslate2 and the book's loop; RUN=folder of a book run (default: random weights)
	@$(BIN)/python -m benchmarks.text $(if $(RUN),--run $(RUN))

audit: $(VENV)/.dev ## known vulnerabilities of the locked packages, as far as the package index knows
	@$(BIN)/python requirements/audit.py

lock: $(VENV)/.dev ## resolve the requirements again
	$(BIN)/python requirements/lock.py

clean: ## remove what was built
	rm -rf $(VENV) out cache .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info

$(VENV)/bin/python:
	@python=$$(bash requirements/find_python.sh) && echo "using $$python" && { "$$python" -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "$$python cannot make a virtual environment; on Debian or Ubuntu install the package python3-venv"; exit 1; }; }

$(VENV)/.runtime: requirements/$(if $(GPU),gpu,runtime).txt pyproject.toml | $(VENV)/bin/python
	@echo "installing the locked packages (about 2 minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.fuzz: requirements/fuzz.txt $(VENV)/.runtime
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.eval: requirements/eval.txt $(VENV)/.runtime
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.bench: requirements/bench.txt $(VENV)/.runtime
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
