# The project's commands. `make test` is all that CI runs; each step can be run by its own name.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help test setup format lint tests docker docs bench

CARGO ?= cargo
# The end-to-end tests mostly wait for blocks, and each runs real nodes: a few at a time suit a small machine.
export RUST_TEST_THREADS ?= 3

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: setup format lint tests docker docs ## install what the tests need, then every check
	@echo "make test: setup, format, lint, tests, docker and docs passed"

setup: ## install real nodes, clients, browser and tools for the tests (see tests/setup.sh)
	@tests/setup.sh

format: ## check the formatting
	$(CARGO) fmt --check

lint: ## clippy, warnings are errors
	$(CARGO) clippy --locked --all-targets -- -D warnings

tests: ## all tests, end to end ones included
	$(CARGO) test --locked

docker: ## the image and the compose file, under a Docker engine of the test's own (needs root)
	@tests/docker.sh

docs: ## build the API documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

bench: ## compare the gateway with a bare send loop and other servers: the table of docs/performance.md
	$(CARGO) build --locked --release
	target/release/chaincast bench --baseline
