# The commands `make dream PROMPT="a cat"`, `make test`, `make docs` and `make trust`. Each makes .venv from requirements.lock first.
PYTHON ?= python3
PROMPT ?= a cat
READY := .venv/.ready
READY_FOR_TESTS := .venv/.ready-for-tests
PIP := .venv/bin/pip install --quiet --disable-pip-version-check --no-deps
# A third of the libraries' code, of which a run imports next to nothing: compiled when it is imported.
RARE := /(tests|transformers/models|diffusers/pipelines|torch/(testing|onnx|_inductor))/
# Khronos' check of GLB files, for a test that is skipped where there is no npm.
VALIDATOR := gltf-validator@2.0.0-dev.3.10

.PHONY: dream test lint tests docs trust install torch libraries pretrain-data

dream: $(READY)
	.venv/bin/python launch.py 'prompt=$(subst ','\'',$(value PROMPT))'

# mypy uses one core for a minute, in which the first tests run.
test: $(READY)
	$(MAKE) --no-print-directory --jobs=2 lint tests

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

tests: $(READY_FOR_TESTS)
	.venv/bin/pytest --numprocesses=logical --maxprocesses=4 --dist=worksteal

# Hours: kills, fuzzed commands, a long run, many prompts, identical commands at once (docs/reliability.md).
trust: $(READY_FOR_TESTS)
	for campaign in together kill prompts long fuzz; do .venv/bin/python tests/campaigns/trust.py $$campaign || exit 1; done

install: $(READY)

$(READY): requirements.lock requirements-cpu.lock requirements-cuda.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11 to 3.13 is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(MAKE) --no-print-directory --jobs=2 torch libraries
	.venv/bin/python -m compileall -q -j 0 -x '$(RARE)' .venv/lib >/dev/null || true
	$(PIP) --no-build-isolation -e .
	if command -v npm >/dev/null; then \
		npm install --silent --no-save --fetch-retries 0 --prefix .venv $(VALIDATOR) || echo "without $(VALIDATOR)"; fi
	touch $@

# Two downloads at once; each file is compiled to bytecode afterwards, on all cores.
torch:
	$(PIP) --no-compile --require-hashes -r requirements-cpu.lock || \
		{ echo "no CPU build of torch where pip looks: installing PyPI's, see docs/reliability.md"; \
		$(PIP) --no-compile --require-hashes -r requirements-cuda.lock; }

libraries:
	$(PIP) --no-compile --require-hashes -r requirements.lock

$(READY_FOR_TESTS): $(READY) requirements-test.lock requirements-docs.lock
	$(PIP) --require-hashes -r requirements-test.lock -r requirements-docs.lock
	touch $@

# The documentation as a site: open outputs/site/index.html.
docs: $(READY_FOR_TESTS)
	.venv/bin/python -m sphinx --fail-on-warning --quiet docs outputs/site

# Debian and its children: the model libraries, unpacked without installing them (needs apt-get and dpkg-deb).
pretrain-data: data/sweethome3d/sweethome3d.jar

data/sweethome3d/sweethome3d.jar:
	mkdir -p data/debian
	cd data/debian && apt-get download sweethome3d-furniture sweethome3d
	for package in data/debian/*.deb; do dpkg-deb -x $$package data/debian/unpacked; done
	mv data/debian/unpacked/usr/share/sweethome3d data/sweethome3d
	mkdir -p data/sweethome3d/licences
	for p in sweethome3d sweethome3d-furniture; do cp data/debian/unpacked/usr/share/doc/$$p/copyright data/sweethome3d/licences/$$p; done
	rm -rf data/debian
	test -f $@
