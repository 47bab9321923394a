# SPDX-License-Identifier: Apache-2.0
# A bare machine needs only Python 3.10 to 3.13, make and, for the fast CPU kernel, a C++ compiler.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
SETUP := setup.py setup.cfg pyproject.toml package.xml $(wildcard diffmf_ros/models/kernels/native/*) \
	$(wildcard launch/*) $(wildcard config/* config/*/*) $(wildcard resource/lib/*)
# A worker builds what the tests of a file share once; test/conftest.py says which files are first.
IN_PARALLEL := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
# Tests over DDS wait for half of their time: one more at once than there are cores, at most 8; then those that bear no
# neighbor. All others give way to them, and use the cores meanwhile.
OF_DDS := $(BIN)/python -m pytest -o cache_dir=.pytest_cache/dds -m
OVER_DDS := $(OF_DDS) 'dds and not alone' -n $(shell echo $$(( $$(nproc) < 8 ? $$(nproc) + 1 : 8 ))) --dist loadfile \
	--no-loadscope-reorder
ALONE := $(OF_DDS) 'dds and alone'
# A node drops frames where the tests beside it take its core, so what failed runs once more by itself; both runs are
# listed at the end.
LAST_FAILED := $(OF_DDS) dds --last-failed --last-failed-no-failures none

.PHONY: help demo test test-fast fuzz fuzz-guided soak chaos sanitize lock sbom audit lint docs venv clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

demo: venv ## the real node on a bag: BAG=path (else rendered drives, SCENE='name name'), OUT=folder (OVERWRITE=1 replaces), RATE=factor
	@[ -z '$(OUT)' ] || [ -n '$(OVERWRITE)' ] || [ -z "$$(ls -d '$(OUT)'/drive_* '$(OUT)'/fused* 2>/dev/null)" ] || { \
		echo "$(OUT) has an earlier demo, perhaps an interrupted one: add OVERWRITE=1 to replace it, or choose another OUT" >&2; exit 2; }
	$(BIN)/diffmf demo $(if $(OUT),--out '$(OUT)') $(if $(BAG),--bag '$(BAG)') \
		$(foreach s,$(SCENE),--scene '$(s)') $(if $(RATE),--rate '$(RATE)') $(if $(OVERWRITE),--overwrite)

# Hundreds of processes import the package and its tests: none has to compile them anew.
test test-fast: export PYTHONDONTWRITEBYTECODE :=

test: SHELL := bash
test: venv ## every test: those that talk DDS beside all others; what failed of them runs again, alone, at the end
	@set -o pipefail; log=$$(mktemp); dds=$$(mktemp); trap 'rm -f "$$log" "$$dds"' EXIT; set -m; \
	{ trap 'exit 130' INT; worst=0; $(OVER_DDS); together=$$?; $(ALONE); for code in $$together $$?; do \
	case $$code in 0|5) ;; 1) [ $$worst = 2 ] || worst=1;; *) worst=2; esac; done; exit $$worst; } \
	> "$$dds" 2>&1 < /dev/null & beside=$$!; \
	{ trap 'exit 130' INT; nice $(IN_PARALLEL) -m 'not dds' | tee -i "$$log"; } & first=$$!; set +m; \
	trap 'trap "" INT TERM; kill -INT -- -$$beside -$$first 2> /dev/null; wait; exit 130' INT TERM; \
	code=0; wait $$first || code=1; wait $$beside; ended=$$?; tee -a "$$log" < "$$dds"; \
	[ $$ended = 0 ] || { [ $$ended = 1 ] && $(LAST_FAILED) | tee -a "$$log"; } || code=1; \
	printf '\nAll parts:\n'; grep -E '^(FAILED|ERROR) |^=+ .*[0-9]s' "$$log"; exit $$code

test-fast: venv ## no DDS, no training, nothing slow: for every change
	$(IN_PARALLEL) -m 'not dds and not training and not slow'

fuzz: venv ## new random and damaged inputs for MINUTES (default 5)
	@end=$$(( $$(date +%s) + 60 * $(or $(MINUTES),5) )); while [ $$(date +%s) -lt $$end ]; do \
	FUZZ_CASES=10000 $(BIN)/python -m pytest -q test/fuzz || exit 1; done

fuzz-guided: venv ## the same with atheris, which follows the code that is reached, MINUTES for each of the inputs (default 1)
	$(INSTALL) -q atheris
	cd test && ../$(BIN)/python -m fuzz.guided $$(( 60 * $(or $(MINUTES),1) ))

soak: venv ## the node under random faults, swaps and loops for MINUTES (default 120); 1: something grows
	$(BIN)/python benchmarks/soak.py --minutes $(or $(MINUTES),120) --rate $(or $(RATE),30) --out out/soak

chaos: venv ## SIGKILL for camera, node, recorder, player and detector at random moments, KILLS times (default 200)
	$(BIN)/python benchmarks/chaos.py --kills $(or $(KILLS),200)

sanitize: venv ## the compiled kernels of every instruction set under AddressSanitizer and UBSan
	$(BIN)/python test/sanitized_kernels.py --all

lock: venv ## requirements/lock.txt anew: what run.txt, ros.txt and torch.txt pull in, with hashes
	$(PYTHON) -m venv out/tools-venv && out/tools-venv/bin/pip install -q uv
	cd requirements && { sed -n '/^#/p' lock.txt; ../out/tools-venv/bin/uv pip compile -q --universal --python-version 3.10 \
		--generate-hashes --no-header --no-annotate run.txt ros.txt torch.txt; } > lock.new && mv lock.new lock.txt

sbom: venv ## what is installed, as CycloneDX in out/sbom.json
	$(PYTHON) -m venv out/tools-venv && out/tools-venv/bin/pip install -q cyclonedx-bom
	out/tools-venv/bin/cyclonedx-py environment $(BIN)/python --of JSON -o out/sbom.json
	@echo out/sbom.json

audit: ## advisories about what the lock pins (needs a network), and our rules for semgrep
	$(PYTHON) -m venv out/tools-venv && out/tools-venv/bin/pip install -q pip-audit semgrep
	PATH="$$PWD/out/tools-venv/bin:$$PATH" semgrep scan --config .semgrep.yml --error --metrics off --disable-version-check diffmf_ros
	out/tools-venv/bin/pip-audit --strict --require-hashes --disable-pip -r requirements/lock.txt

lint: venv ## ruff over everything, mypy over the package
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMPS)/docs ## the pages as a site in out/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

venv: $(STAMPS)/project ## .venv with everything pinned and this package, editable

clean: ## remove what was built and written; .venv stays
	rm -rf build install log out *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis $(STAMPS)/project
	rm -f diffmf_ros/models/kernels/*.so
	find . -path ./$(VENV) -prune -o -name __pycache__ -print0 | xargs -0 -r rm -rf

$(STAMPS)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "Python 3.10 to 3.13 is needed, $(PYTHON) is: $$($(PYTHON) --version 2>&1)." \
		"Name another one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu:" \
		"sudo apt install python3-venv python3-pip" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/build $(STAMPS)/torch $(STAMPS)/docs: $(STAMPS)/%: requirements/%.txt $(STAMPS)/python
	$(INSTALL) -r $<
	@touch $@

$(STAMPS)/wheels: requirements/run.txt requirements/ros.txt requirements/dev.txt $(STAMPS)/build
	$(INSTALL) -r requirements/run.txt -r requirements/ros.txt -r requirements/dev.txt
	@touch $@

$(STAMPS)/project: $(SETUP) $(STAMPS)/wheels $(STAMPS)/torch
	$(INSTALL) --no-build-isolation --no-deps --editable .
	@touch $@
