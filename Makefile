# make demo: a simulated observation through the whole task, the catalogue beside the truth.
# make test: the checks that every change must pass; the whole suite on one Python, a short one on the others.
# make matrix: the short suite on every Python that is there; make matrix SUITE=whole: everything.
# make test-pipeline PIPELINE=<its source>: our stages in the ALMA pipeline's own chain, with Python 3.12.
# make docs: the documentation as pages, in docs/_build/html; any warning is an error.
# Each makes .venv (and .venv-3.10 ...) by itself; the CASA data come from the casadata wheel unless others are installed.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
SOURCES := setup.py $(shell find casa_deepfocus -type f -not -name '*.pyc')
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

# For programs that start CASA without the task; a site's own configuration stays in force.
ifeq ($(wildcard /opt/casa/casasiteconfig.py /home/casa/casasiteconfig.py),)
export CASASITECONFIG ?= $(CURDIR)/casa_deepfocus/casasiteconfig.py
endif
export MPLBACKEND ?= agg

SUITE ?= short
PIPELINE ?=
PIPELINE_PYTHON ?= python3.12

.PHONY: demo docs test test-pipeline matrix lint types clean

demo: $(VENV)/installed
	rm -rf demo
	$(BIN)/python -m sim demo --out demo
	cd demo && $(BIN)/python -m casashell --nologger --nogui -c "sdeepfocus(vis='demo.ms', datacolumn='data', outfile='demo')"
	$(BIN)/python -m training score demo/truth.ecsv demo/demo.cat.ecsv
	@echo "report: $(CURDIR)/demo/demo.html   picture: $(CURDIR)/demo/demo.png   log: $(CURDIR)/demo/casa-*.log"

test: $(VENV)/tested lint
	$(BIN)/python -m pytest -q -n logical --dist loadfile --junitxml=.matrix/whole.xml
	$(BIN)/python tests/matrix.py --ran .matrix/whole.xml

# The pipeline is never part of this package: its source is given, and installed into an environment of its own.
test-pipeline:
	$(PIPELINE_PYTHON) tests/pipeline_chain.py --source '$(PIPELINE)' --simulator '$(if $(wildcard $(VENV)/installed),$(BIN)/python,)' \
	    --out '$(or $(OUT),.pipeline)'

matrix: $(VENV)/bin/python
	$(BIN)/python tests/matrix.py --suite $(SUITE)

docs: $(VENV)/documented
	$(BIN)/python docs/make_parameters.py
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

lint: $(VENV)/tested
	$(BIN)/ruff check .

types: $(VENV)/tested
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(VENV)-3.* .matrix demo build docs/_build docs/generated *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12) and 'Python 3.10, 3.11 or 3.12 is needed (make PYTHON=...), as CASA has it')"
	$(PYTHON) -m venv $(VENV)

# The dependencies, and again when their list changes.
$(VENV)/dependencies: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) '.[casa,sim]'
	touch $@

# The package, and again when its sources change. An old build folder would bring back deleted files.
$(VENV)/installed: $(VENV)/dependencies $(SOURCES)
	rm -rf build
	$(PIP) --no-deps --force-reinstall .
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(PIP) '.[casa,sim,training,test]'
	touch $@

$(VENV)/documented: $(VENV)/installed
	$(PIP) '.[docs]'
	touch $@
