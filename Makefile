# Every command that a person needs; `make` lists them. CI runs the same ones.

VENV := .venv
PYTHON ?= python3
export PATH := $(abspath $(VENV))/bin:$(PATH)
unexport PYTHONPATH

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-slow lint format repro-real metrics compare sweep recipe plots remote publish gpu-report check-lock summary job lock-image try-image sbom

help:  ## list these commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(VENV)/installed  ## make .venv, install carinspect from this checkout with all that requirements.txt names

$(VENV)/installed: requirements.txt constraints.txt pyproject.toml setup.py
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -e '.[serve,train]' -c constraints.txt
	touch $@

$(VENV)/installed-tests: $(VENV)/installed tests/requirements.txt
	$(VENV)/bin/python -m pip install --quiet -r tests/requirements.txt -c constraints.txt
	touch $@

$(VENV)/installed-slow-tests: $(VENV)/installed-tests tests/requirements-slow.txt tests/requirements-wandb.txt
	$(VENV)/bin/python -m pip install --quiet -r tests/requirements-slow.txt -c constraints.txt
	$(VENV)/bin/python -m pip install --quiet --upgrade --target $(VENV)/wandb -r tests/requirements-wandb.txt -c constraints.txt
	$(VENV)/bin/python -m pip install --quiet --no-deps label-studio-sdk==2.1.2 datumaro==1.13.12
	touch $@

repro: setup  ## run the pipeline: photos, split, model, threshold, model file
	dvc repro

# One test process a core, each with one thread; the tests of a file stay together and share its fixtures.
PYTEST := OMP_NUM_THREADS=1 python -m pytest -n logical --dist loadfile --no-loadscope-reorder

test: $(VENV)/installed-tests  ## lint, types and the test suite without its end-to-end tests
	$(MAKE) --no-print-directory lint
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/installed-slow-tests  ## the end-to-end tests: pipelines, experiments, killed runs, every command of the pages
	$(PYTEST) -m slow --timeout 2400

lint: $(VENV)/installed-tests  ## formatter, linter and type checker
	ruff format --check
	ruff check
	mypy

format: $(VENV)/installed-tests  ## let the formatter and the linter fix what they can
	ruff format
	ruff check --fix

metrics: setup  ## what changed against the last commit
	dvc metrics diff
	dvc params diff

compare: setup  ## the experiments side by side: what was changed, and the headline figures
	@dvc exp show --md --only-changed --drop '.*/.*|profiles.*|Created' $(ARGS)  # without files

sweep: setup  ## train the backbones x seeds of sweeps/sweep.yaml, and show how much the seeds differ: sweeps/spread.csv, spread.png
	PYTHONPATH=src python sweeps/sweep.py

recipe: setup  ## find rates, stages, epochs and photo side for your photos, on val, within the minutes of sweeps/recipe.yaml: sweeps/found.yaml
	PYTHONPATH=src python sweeps/recipe.py

gpu-report: setup  ## measure loops, precisions, processes, memory, ONNX and two profiles on this GPU, into docs/gpu.md; ten minutes
	PYTHONPATH=src python benchmarks/gpu.py --out docs/gpu.md

check-lock: setup  ## does dvc.lock belong to this code, these parameters and this data? needs no data
	@said=$$(dvc repro --dry --allow-missing 2>&1); case "$$said" in *"are up to date"*) ;; *) echo "$$said"; \
		echo "dvc.lock is not of this commit: dvc repro, and commit dvc.lock, data and metrics." >&2; exit 1;; esac

summary: setup  ## Markdown: parameters, metrics and plots against BASE (default: the last commit)
	@bash .ci/summary $(or $(BASE),HEAD)

# An address of the same kind keeps the options of the remote that is there, such as its endpoint.
define set_remote
@old=$$(dvc config --project remote.storage.url 2>/dev/null); \
	case "$$old" in *://*) test "$${old%%:*}" = "$(firstword $(subst :, ,$(1)))";; *) false;; esac \
	&& dvc remote modify storage url "$(1)" && dvc remote default storage || dvc remote add --force --default storage "$(1)"
dvc remote modify storage verify true
$(if $(ENDPOINT),dvc remote modify storage endpointurl "$(ENDPOINT)")
endef

remote: setup  ## share data and models: URL=s3://bucket/path, ssh://host/path or a folder; ENDPOINT=http://… for an S3 of one's own
	@test -n "$(URL)" || { echo "URL is empty: make remote URL=s3://bucket/path" >&2; exit 1; }
	$(call set_remote,$(URL))

# An HTTP remote can only be read, so the objects go into the folder behind it. The owner keeps pushing to a remote of their own.
publish: setup  ## let everybody `dvc pull`: FOLDER=<what a web server serves> URL=<its address>; without URL the folder is read
	@test -n "$(FOLDER)" || { echo "FOLDER is empty: make publish FOLDER=/srv/www/cars URL=https://host/cars" >&2; exit 1; }
	@dvc remote add --quiet --local --force publishing "$(abspath $(FOLDER))"
	@dvc push --remote publishing; status=$$?; dvc remote remove --local publishing; exit $$status
	dvc remote add --force --default public "$(or $(URL),$(abspath $(FOLDER)))"
	dvc remote modify public verify true
	@echo "Commit .dvc/config: then a clone has everything by dvc pull."

# Its result: dvc exp pull $(GIT) $(NAME) && dvc exp apply $(NAME). On the next machine the same line resumes the training.
GIT ?= origin
NAME ?= job
job: setup  ## train on a machine that may vanish: REMOTE=<url> NAME=<experiment> ARGS="-S …"
	@test -n "$(REMOTE)" || { echo "REMOTE is empty: make job REMOTE=s3://bucket/path NAME=name" >&2; exit 1; }
	$(call set_remote,$(REMOTE))
	@carinspect store check-writes --git "$(GIT)"
	@! dvc exp list --name-only | grep -qx "$(NAME)" || dvc exp remove --quiet "$(NAME)"
	carinspect store keep-states -- dvc exp run --pull --name "$(NAME)" $(ARGS)
	@dvc exp push --force "$(GIT)" "$(NAME)"

IMAGE_TOOLS := .carinspect/image-tools
$(IMAGE_TOOLS)/installed: docker/requirements-tools.txt
	$(PYTHON) -m venv $(IMAGE_TOOLS)
	$(IMAGE_TOOLS)/bin/python -m pip install --quiet -r $<
	touch $@

# Each package of an image with its version and the hashes of its files, from requirements.txt and constraints.txt.
LOCK := $(IMAGE_TOOLS)/bin/uv pip compile - --quiet --constraints constraints.txt --generate-hashes --no-annotate --no-header --python-version 3.11
SERVE := sed '/^\# \[train\]/,$$d' requirements.txt
lock-image: $(IMAGE_TOOLS)/installed  ## write docker/locked/*.txt, the packages of the images with their hashes
	$(SERVE) | $(LOCK) --output-file docker/locked/serve.txt
	$(SERVE) | sed 's/^onnxruntime==/onnxruntime-gpu[cuda,cudnn]==/' | $(LOCK) --output-file docker/locked/serve-gpu.txt
	$(LOCK) --output-file docker/locked/pull.txt < docker/requirements-pull.txt

try-image: $(IMAGE_TOOLS)/installed  ## start the service on the locked packages alone, read-only, as the user 10001; as root, on Linux
	sh docker/try.sh "$(abspath $(IMAGE_TOOLS))/bin/uv" models/best.onnx

sbom: $(IMAGE_TOOLS)/installed  ## write sbom.json (CycloneDX): the packages of the service's image; PACKAGES=serve-gpu or pull for another
	$(IMAGE_TOOLS)/bin/cyclonedx-py requirements docker/locked/$(or $(PACKAGES),serve).txt --output-reproducible --output-file sbom.json

plots: setup  ## draw every plot into dvc_plots/index.html
	dvc plots show

# What the example changes in params.yaml; ARGS changes more, e.g. ARGS="-S train.epochs=12".
REAL = -S data.root="$(abspath $(CARINSPECT_REAL_DATA))" -S data.sources=examples/real_photos/sources.yaml \
	-S '~questions.cleanliness' -S hardware=auto
WEIGHTS_OF = $(if $(filter true false,$(WEIGHTS)),$(WEIGHTS),$(abspath $(WEIGHTS)))

repro-real: setup  ## the pipeline on the photos in CARINSPECT_REAL_DATA, as an experiment in a workspace of its own
	@test -d "$(CARINSPECT_REAL_DATA)" || { echo "CARINSPECT_REAL_DATA is '$(CARINSPECT_REAL_DATA)': no such folder. Set it to a data root." >&2; exit 1; }
	@! dvc exp list --name-only | grep -qx real-photos || dvc exp remove --quiet real-photos
	@start=$$(date +%s) && dvc exp run --temp --name real-photos $(REAL) $(if $(WEIGHTS),-S model.pretrained="$(WEIGHTS_OF)") $(ARGS) \
		&& echo "It took $$(( ($$(date +%s) - start + 59) / 60 )) minutes."
	@echo "Its figures: dvc metrics diff --all HEAD real-photos. Its files: dvc exp branch real-photos <branch>."
