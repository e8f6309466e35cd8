# What one does with this repository; `make` alone lists it.
# ARGS goes to the program that a target runs: make run ARGS="--listen 127.0.0.1:9000"
.DEFAULT_GOAL := help
.PHONY: help run test check load drill bench guard soak pages servers

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

run: servers ## Run a gateway with its own Redis and Postgres and a demo sale
	cargo run --release -- dev $(ARGS)

test: servers ## Run every test, on real servers
	@if [ -f loadtest/k6/package.json ]; then \
	  npm ci --no-audit --no-fund --prefix loadtest/k6 && npm test --prefix loadtest/k6; \
	fi
	cargo test --workspace $(ARGS)

check: ## Check formatting, lints and documentation
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --workspace

load: servers ## Load-test a fresh gateway, then verify its ledger
	scripts/load.sh $(ARGS)

drill: servers ## Break everything in turn, under load, for MINUTES (60), and judge what clients saw
	@scripts/need-faketime.sh
	cargo run --release -- drill --minutes $(or $(MINUTES),60) --log-filter error $(ARGS)

bench: servers ## Measure beside other ways to do it: ROUNDS=5 SECONDS=5, ARGS=--quick
	scripts/bench.sh $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

guard: servers ## Fail where the gateway lost more than a third beside a handler that does nothing
	scripts/bench.sh --guard $(ARGS)

soak: servers ## Measure what shows after an hour: load near capacity, a large catalogue, recovery
	scripts/bench.sh --soak $(ARGS)

pages: servers ## Show that a page of EVENTS (5000000) costs the same wherever it lies
	scripts/many-events.sh $(EVENTS)

servers: ## Install Redis and Postgres where they are missing
	@scripts/need-servers.sh
