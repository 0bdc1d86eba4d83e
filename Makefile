# Everything on a fresh machine with Python 3.11, pip and make:  make demo, make test.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: setup demo test test-long test-deep docs lint clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs,cluster,lava,netx,nir,onnx,spikingjelly]"
	# its metadata stops at Python 3.10 and numpy 1; executors/lava/standalone/shim.py makes it run beyond
	# lava-dl, against whose reader .net files are tested, asks for an old torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --ignore-requires-python lava-nc lava-dl
	# its metadata asks for torchvision and torchaudio, which would pull a CUDA build of torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps spikingjelly
	# its metadata asks for librosa, which is for sound
	$(BIN)/python -m pip install --quiet --constraint constraints.txt expelliarmus importRosbag requests
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps tonic
	# what tests/compare runs beside ours; their metadata asks for old libraries.  Without them those tests are skipped
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps neurobench syops || \
		echo "tests/compare will be skipped: neurobench and syops could not be installed"
	# loops for this processor, which the first use would else wait for
	$(BIN)/python -m spikformer_deploy.inference.first_use || \
		echo "loops were not compiled ahead: what is missing is compiled when it is first used"
	touch $@

demo: setup
	$(BIN)/spikdeploy demo --output report.html

test: setup
	# what source has changed since is compiled once, by all processors, and not by each process of the tests for itself
	-$(BIN)/python -m spikformer_deploy.inference.first_use
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

# what takes seconds by itself, whole journeys, and the other cases of what every run has a few of
test-long: setup
	-$(BIN)/python -m spikformer_deploy.inference.first_use
	LONG=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "long and not deep"

# files and networks by the thousand, and many more cases
# SEED=... makes others, MUTANTS=... more or fewer
test-deep: setup
	DEEP=1 $(BIN)/python -m pytest --numprocesses 0 -m deep

# the pages of docs/, the command line and the Python API as a site in build/docs, which needs no network
docs: setup
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs
	@echo build/docs/index.html

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv build dist *.egg-info report.html
