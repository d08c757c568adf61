# make run: set up and open the dashboard. make test: set up and run every test.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test clean

run: .venv/ready
	@echo "kvlab opens at http://127.0.0.1:8501"
	$(BIN)/python -m streamlit run app.py

test: .venv/ready-tests
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not browser and not alone" -n 2
	$(BIN)/python -m pytest -m "browser or alone"

# torch first, by its pin: asked for by others it would bring gigabytes of CUDA to a machine without it
.venv/ready: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kvlab needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/ready-tests: .venv/ready tests/requirements.txt
	$(BIN)/python -m pip install --quiet -r tests/requirements.txt
	touch $@

clean:
	rm -rf .venv
