# Slipway's commands. `make run` and `make test` do all the set-up themselves.
.DEFAULT_GOAL := help
.PHONY: help run test check bench test-cluster-up test-cluster-down clean
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
# A stamp per file that decides what is installed: nothing is done twice, and a change is never missed.
INSTALLED := $(VENV)/.installed
INSTALLED_TEST := $(VENV)/.installed-test
BROWSER_FILES := node_modules/.installed
STATIC := staticfiles/.collected

help:
	@echo "make run    set up and start everything on this machine, until Ctrl-C"
	@echo "make test   install what the tests need and run all of them"
	@echo "make check  lint, types, layers, migrations, deployment settings"
	@echo "make test-cluster-up, test-cluster-down   a real Kubernetes cluster on this machine, for the tests (root, Debian)"
	@echo "make bench  measure beside nginx and other peers (docs/benchmarks.md says what)"
	@echo "make clean  remove the environment (your data in .slipway stays)"

run: $(STATIC)
	@exec $(PYTHON) manage.py up

test: $(INSTALLED_TEST) $(STATIC)
	@bash scripts/test.sh

check: $(INSTALLED_TEST) $(STATIC)
	@bash scripts/check.sh

test-cluster-up: $(INSTALLED_TEST)
	@bash scripts/test_cluster/cluster.sh up

test-cluster-down:
	@bash scripts/test_cluster/cluster.sh down

bench: $(INSTALLED_TEST)
	@bash scripts/bench.sh $(SUITES)

clean:
	rm -rf $(VENV) .venv-clients node_modules tests/clients/node_modules staticfiles

$(VENV)/bin/pip:
	@bash scripts/make_environment.sh $(VENV)

$(INSTALLED): requirements.txt | $(VENV)/bin/pip
	@echo "Installing Python packages …"
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(INSTALLED_TEST): requirements-test.txt $(INSTALLED)
	@echo "Installing the tests' Python packages …"
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-test.txt
	@touch $@

$(BROWSER_FILES): package.json package-lock.json .npmrc requirements-node.txt | $(INSTALLED)
	@echo "Installing browser files from npm …"
	@command -v npm >/dev/null || $(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-node.txt
	@PATH="$$PATH:$(CURDIR)/$(VENV)/bin" npm ci --no-audit --no-fund --loglevel=error
	@touch $@

$(STATIC): $(BROWSER_FILES) $(shell find static -type f) dashboard/vendor_files.py $(INSTALLED)
	@echo "Collecting static files …"
	@$(PYTHON) manage.py collectstatic --noinput --clear --verbosity 0
	@touch $@
