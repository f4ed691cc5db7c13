# Reverie's commands. `make demo` and `make test` set everything up by themselves.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# Not the scripts in $(BIN), whose first lines name this folder: its path may have any characters.
PYTHON_M := $(BIN)/python -m
REVERIE := $(PYTHON_M) reverie
# A variable's value as one word of the shell, whatever characters it has; a "~/" at its beginning is the home.
home = $(if $(filter ~/%,$(firstword $(value $1))),"$$HOME/")
quoted = $(home)'$(subst ','\'',$(if $(home),$(patsubst ~/%,%,$(value $1)),$(value $1)))'
# `--option VALUE`, where the variable has a value.
option = $(if $(value $2),$1 $(call quoted,$2))
# Sets "$${paths[@]}" to `--option PATH` for each path of the variable.
each = mapfile -d '' -t paths < <($(BIN)/python requirements/paths.py $1 $(call quoted,$2));
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: $(shell grep -oE '^[a-z-]+:' $(firstword $(MAKEFILE_LIST)) | tr -d :)

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

setup: $(VENV)/.runtime ## install the locked packages into .venv (GPU=1 for the GPU builds)

demo: $(VENV)/.runtime ## the main job on the shipped models; writes out/demo/index.html
	$(REVERIE) demo

test: $(VENV)/.dev ## unit tests, and service tests against the embedded Triton; ARGS="-n 0 -k gatys"
	$(PYTHON_M) pytest -n 2 $(ARGS)

test-fast: $(VENV)/.dev ## what needs neither a server nor TensorFlow and takes no long time
	$(PYTHON_M) pytest -n 2 -m "not service and not slow and not tensorflow" $(ARGS)

lint: $(VENV)/.dev ## formatting, lint, types, and which room may import which
	$(PYTHON_M) ruff format --check .
	$(PYTHON_M) ruff check .
	$(PYTHON_M) mypy
	$(BIN)/python $(BIN)/lint-imports --no-cache

serve: $(VENV)/.runtime ## serve model_repository on 127.0.0.1, gRPC 8001 and HTTP 8000, behind its door; ARGS="--weights-dir ..."
	$(REVERIE) serve $(ARGS)

train-lm: $(VENV)/.runtime ## train a language model; PRESET=book|reviews DATA=archive or folder (default: download IMDB) ARGS=...
	$(REVERIE) train lm $(call option,--preset,PRESET) $(call option,--data,DATA) $(ARGS)

eval-lm: $(VENV)/.runtime ## measure the published language model, or a RUN, on the test reviews; DATA=archive or folder ARGS="--all"
	$(REVERIE) eval $(if $(RUN),lm $(call option,--run,RUN),served) $(call option,--data,DATA) $(ARGS)

train-style: $(VENV)/.runtime ## train the style network; STYLES="a.jpg b.jpg" CONTENT=photos/ (default: download) WEIGHTS=folder ARGS=...
	@[ -n $(call quoted,STYLES)"$(findstring --run,$(ARGS))" ] || { echo 'say which paintings: make train-style STYLES="painting.jpg" [CONTENT=photos/]'; exit 2; }
	@$(call each,--style,STYLES) $(REVERIE) train style "$${paths[@]}" $(call option,--content,CONTENT) $(call option,--weights-dir,WEIGHTS) $(ARGS)

add-style: $(VENV)/.runtime ## teach a trained style network one more style; STYLE=painting.jpg [NAME=...] [RUN=folder] CONTENT=photos/ WEIGHTS=folder ARGS=...
	@[ -n $(call quoted,STYLE)"$(findstring --run,$(ARGS))" ] || { echo 'say which painting: make add-style STYLE=painting.jpg [NAME=...]'; exit 2; }
	$(REVERIE) train add-style $(call option,--style,STYLE) $(call option,--name,NAME) $(call option,--from,RUN) $(call option,--content,CONTENT) $(call option,--weights-dir,WEIGHTS) $(ARGS)

eval-style: $(VENV)/.eval ## measure the published style network, or a RUN, on held-out photos; STYLES="a.jpg b.jpg" PHOTOS=folder [CLASSIFIER=file.tflite] [AGAINST="5 runs/..."] WEIGHTS=folder ARGS=...
	@[ -n $(call quoted,STYLES) ] || { echo 'say which paintings: make eval-style STYLES="painting.jpg" [PHOTOS=photos/]'; exit 2; }
	@$(call each,--against,AGAINST) against=("$${paths[@]}"); $(call each,--style,STYLES) $(REVERIE) eval style "$${paths[@]}" $(call option,--run,RUN) "$${against[@]}" $(call option,--photos,PHOTOS) $(call option,--content,CONTENT) $(call option,--classifier,CLASSIFIER) $(call option,--weights-dir,WEIGHTS) $(ARGS)

train-features: $(VENV)/.runtime ## train the compact feature extractor; CONTENT=photos/ WEIGHTS=folder ARGS=...
	$(REVERIE) train features $(call option,--content,CONTENT) $(call option,--weights-dir,WEIGHTS) $(ARGS)

export: $(VENV)/.runtime ## publish the newest finished runs; MODEL=style|language_model RUN=folder PRECISION=int8|float32 ARGS="--label canary"
	$(REVERIE) export $(call option,--model,MODEL) $(call option,--run,RUN) $(call option,--precision,PRECISION) $(ARGS)

export-check: $(VENV)/.runtime ## retrain tiny models and take them into service, canary and back under load; JSON on the last line
	@$(PYTHON_M) benchmarks.export_check $(ARGS)

configs: $(VENV)/.runtime ## write every config.pbtxt from its description; ARGS=--check
	$(REVERIE) configs $(ARGS)

gpu-check: $(VENV)/.runtime ## every ONNX model on an NVIDIA GPU beside the CPU; says so where there is none
	@$(PYTHON_M) benchmarks.gpu_check $(ARGS)

loadtest: $(VENV)/.runtime ## a minute of the default mix on a server of its own; ADDRESS=host:port for a running one ARGS="--open --rate 4"
	$(PYTHON_M) loadtests.run $(call option,--address,ADDRESS) $(ARGS)

loadtest-capacity: $(VENV)/.runtime ## the highest rate of each endpoint within its objectives, then three times that; ADDRESS= ARGS=
	@$(PYTHON_M) loadtests.capacity $(call option,--address,ADDRESS) $(ARGS)

loadtest-compare: $(VENV)/.runtime ## two running servers under the same load, in turns; A=host:port B=host:port ARGS=
	@[ -n "$(A)" ] && [ -n "$(B)" ] || { echo 'say which servers: make loadtest-compare A=127.0.0.1:8001 B=127.0.0.1:9001'; exit 2; }
	@$(PYTHON_M) loadtests.compare $(A) $(B) $(ARGS)

loadtest-soak: $(VENV)/.runtime ## an hour of the default mix, and how the server's memory grows; ADDRESS= ARGS="--seconds 28800"
	@$(PYTHON_M) loadtests.soak $(call option,--address,ADDRESS) $(ARGS)

fuzz: $(VENV)/.runtime ## 20,000 almost right requests through the door; no crash, no hang, no internal error; ADDRESS= ARGS="--requests 2000 --seed 7"
	@$(PYTHON_M) loadtests.fuzz.run $(call option,--address,ADDRESS) $(ARGS)

fuzz-parsers: $(VENV)/.fuzz ## coverage-guided bytes for the readers of pictures, parameters and texts (atheris); ARGS="--runs 1000000"
	@$(PYTHON_M) loadtests.fuzz.parsers $(ARGS)

faults: $(VENV)/.runtime ## kill, stop, starve and clog a running server under clients, and see it come back; ARGS="--vanishing 100 --only triton_killed"
	@$(PYTHON_M) loadtests.faults.run $(ARGS)

bench-features: $(VENV)/.runtime ## how far the compact features carry transfers and dreams; STYLES="a.jpg b.jpg" WEIGHTS=folder with ImageNet weights
	@$(call each,--style,STYLES) $(if $(value WEIGHTS),REVERIE_WEIGHTS_DIR=$(call quoted,WEIGHTS)) $(PYTHON_M) benchmarks.compact_features "$${paths[@]}"

bench-gatys: $(VENV)/.dev ## style transfer beside the book's loop; DATA=folder with chicago.jpg, styles/starry_night.jpg and VGG19's weights
	@$(PYTHON_M) benchmarks.gatys --data $(call quoted,DATA) $(ARGS)

bench-dream: $(VENV)/.dev ## DeepDream beside the book's loop; DATA=folder with chicago.jpg and InceptionV3's weights
	@$(PYTHON_M) benchmarks.dream --data $(call quoted,DATA) $(ARGS)

bench-style: $(VENV)/.bench ## milliseconds a picture beside Johnson's network; STYLES="a.jpg b.jpg" PHOTOS=held-out/ CLASSIFIER=file WEIGHTS=folder for the quality too
	@$(call each,--style,STYLES) $(if $(value WEIGHTS),REVERIE_WEIGHTS_DIR=$(call quoted,WEIGHTS)) $(PYTHON_M) benchmarks.style "$${paths[@]}" $(call option,--photos,PHOTOS) $(call option,--classifier,CLASSIFIER) $(ARGS)

bench-styles: $(VENV)/.eval ## styles of paintings that no training saw, drafted and learned; RUN=painter's run PAINTINGS=folder STYLES="a.jpg b.jpg" PHOTOS=held-out/ CONTENT=photos/ CLASSIFIER=file WEIGHTS=folder
	@$(call each,--style,STYLES) $(if $(value WEIGHTS),REVERIE_WEIGHTS_DIR=$(call quoted,WEIGHTS)) $(PYTHON_M) benchmarks.styles "$${paths[@]}" --run $(call quoted,RUN) --paintings $(call quoted,PAINTINGS) --photos $(call quoted,PHOTOS) --content $(call quoted,CONTENT) $(call option,--classifier,CLASSIFIER) $(ARGS)

bench-distillation: $(VENV)/.runtime ## what copying a teacher buys a style network; STYLES="a.jpg b.jpg" CONTENT=photos/ WEIGHTS=folder TEACHER=run
	@$(call each,--style,STYLES) $(if $(value WEIGHTS),REVERIE_WEIGHTS_DIR=$(call quoted,WEIGHTS)) $(PYTHON_M) benchmarks.distillation "$${paths[@]}" --content $(call quoted,CONTENT) --teacher $(call quoted,TEACHER) $(ARGS)

bench-text: $(VENV)/.bench ## tokens per second beside CTranslate2 and the book's loop; RUN=folder of a book run (default: random weights)
	@$(PYTHON_M) benchmarks.text $(call option,--run,RUN)

bench-door: $(VENV)/.runtime ## what the door costs: calls, 32 streams and pictures with it and without, its memory and start; JSON on the last line
	@$(PYTHON_M) benchmarks.door $(ARGS)

audit: $(VENV)/.dev ## known vulnerabilities of the locked packages, as far as the package index knows
	@$(BIN)/python requirements/audit.py

lock: $(VENV)/.dev ## resolve the requirements again
	$(BIN)/python requirements/lock.py

$(VENV)/bin/python:
	@case "$(if $(filter /%,$(VENV)),,$$PWD/)$(VENV)" in *:*) echo "the path of this folder has a colon, which no virtual environment can have; put that elsewhere: make VENV=/another/folder (in every call)"; exit 1;; esac
	@python=$$(bash requirements/find_python.sh) && echo "using $$python" && { "$$python" -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "$$python cannot make a virtual environment; on Debian or Ubuntu install the package python3-venv"; exit 1; }; }

$(VENV)/.runtime: requirements/$(if $(GPU),gpu,runtime).txt pyproject.toml clients/python/pyproject.toml | $(VENV)/bin/python
	@echo "installing the locked packages (about 2 minutes)"
	@$(PYTHON_M) pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@$(PYTHON_M) pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . --editable clients/python
	@install -m 755 requirements/reverie.sh $(BIN)/reverie
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@$(PYTHON_M) pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.fuzz: requirements/fuzz.txt $(VENV)/.runtime
	@$(PYTHON_M) pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.eval: requirements/eval.txt $(VENV)/.runtime
	@$(PYTHON_M) pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.bench: requirements/bench.txt $(VENV)/.runtime
	@$(PYTHON_M) pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
