# Everything runs in .venv, which the first target to need it creates.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROMPT := in the state containing dallas the capital is

.PHONY: demo test shapes lint types imports scripts check gpu clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "attrgraph needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Trace a prompt with the shipped model: prints the result, writes JSON and a picture into demo-out/.
demo: $(VENV)/.installed
	@mkdir -p demo-out
	@command -v dot >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && { echo "installing Graphviz for the picture"; apt-get -qq update && apt-get -qq install -y graphviz >/dev/null; }; } || true
	@if command -v dot >/dev/null; then \
	  $(BIN)/attrgraph trace "$(PROMPT)" -o demo-out/dallas.json -o demo-out/dallas.svg --node-threshold 0.6 --force; \
	else \
	  $(BIN)/attrgraph trace "$(PROMPT)" -o demo-out/dallas.json -o demo-out/dallas.dot --node-threshold 0.6 --force; \
	  echo "no Graphviz here: wrote DOT text instead of a picture (apt install graphviz, brew install graphviz)"; \
	fi

test: $(VENV)/.installed
	$(BIN)/pytest -n 2 --dist loadfile -q

# The same tests with every annotated shape checked at run time, but for those of rooms that have none.
shapes: $(VENV)/.installed
	$(BIN)/pytest -n 2 --dist loadfile -q --jaxtyping-packages=attrgraph,shapes.checked -m "not refusal and not doors" \
	  --ignore=tests/cli --ignore=tests/io --ignore=tests/viz --ignore=tests/demo

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

imports: $(VENV)/.installed
	$(BIN)/lint-imports

# The explorer's scripts; needs npm, or tsc.
scripts:
	$$(command -v tsc || echo npx --yes -p typescript tsc) -p attrgraph/viz/explorer/jsconfig.json

check: test shapes lint types imports

# On a machine with a GPU and a CUDA build of torch: the tests that need one, and the benchmarks, into results/.
gpu:
	$(BIN)/pytest -q -m gpu
	$(BIN)/python benchmarks/roofline.py --device cuda -o benchmarks/results/roofline_gpu.json
	$(BIN)/python benchmarks/attribution.py --device cuda --shapes gpt2 llama --tokens 16 64 256 1024 -o benchmarks/results/attribution_gpu.json
	$(BIN)/python benchmarks/train_step.py --device cuda -o benchmarks/results/train_step_gpu.json

clean:
	rm -rf $(VENV) build dist *.egg-info demo-out
