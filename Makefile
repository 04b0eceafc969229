# Everything sets itself up: `make demo` and `make test` need Python >= 3.11, make and a package index, nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test check torture bench lock clean

$(STAMP): pyproject.toml .lock/requirements.txt .lock/install_vllm.py .lock/mend.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "geobatch needs Python >= 3.11; name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint .lock/requirements.txt --editable '.[cpu,test]'
	$(BIN)/python .lock/install_vllm.py
	@touch $@

demo: $(STAMP)
	$(BIN)/python jobs/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not torture and not gpu"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

torture: $(STAMP)
	$(BIN)/python -m pytest -m torture --timeout 7200 -s

bench: $(STAMP)
	$(BIN)/python -m tests.bench

# The exact versions of this machine's .venv become the locked ones.
lock: $(STAMP)
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+c[pu][u0-9]*$$//' > .lock/requirements.txt

clean:
	rm -rf $(VENV) .demo .bench .torture
