# Every task of this repository. `make` alone lists them.
#
# Everything is built with one profile, --release, so that RocksDB is compiled once for each machine; the
# library lies in a cache outside of the checkout and is shared by all of them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export CLAWHUB_CACHE ?= $(HOME)/.cache/clawhub
TOOLS := $(CLAWHUB_CACHE)/tools
export PACKAGES := $(CLAWHUB_CACHE)/packages
export PATH := $(TOOLS)/bin:$(PATH)
export CC := clang
export CXX := clang++
# Where .ci/deps put librocksdb.a; asked only by what compiles.
ROCKSDB = ROCKSDB_STATIC=1 ROCKSDB_LIB_DIR="$$(.ci/rocksdb path)"
CARGO = env $(ROCKSDB) cargo
TARGET = $${CARGO_TARGET_DIR:-target}/release
TESTKIT = "$(TARGET)/clawhub-testkit"
SUITE_1_1 := $(TOOLS)/bin/conformance-1.1

.PHONY: help
help: ## List the tasks
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

.PHONY: deps
deps: ## Install what all tasks but the benches need, saying what and why (the demo needs less)
	@.ci/deps

.PHONY: build
build: ## Build the clawhub binary and the test helpers
	$(CARGO) build --release --locked --bin clawhub --bin clawhub-testkit --package clawhub --package clawhub-testkit

.PHONY: demo
demo: ## Install, build, start three nodes, push, pull, kill the leader, go on
	@tests/demo

.PHONY: test
test: ## Run all tests (the long ones small; tests/README.md has their full measure)
	@# More of them than processors: most of the time they wait for elections and disks.
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-4} $(CARGO) test --release --locked --workspace

.PHONY: conformance
conformance: build ## Run the OCI conformance suite 1.1, or with SUITE=path a build of the 2026 one
ifdef SUITE
	@$(TESTKIT) conformance --suite "$(SUITE)"
else
	@$(MAKE) $(SUITE_1_1)
	@$(TESTKIT) conformance --suite-1.1 $(SUITE_1_1)
endif

$(SUITE_1_1): tests/conformance/go.mod tests/conformance/go.sum
	cd tests/conformance && GOFLAGS=-mod=readonly \
	  go test -c -o $@ github.com/opencontainers/distribution-spec/conformance
	@touch $@

.PHONY: clients
clients: build ## Push and pull with skopeo, podman, Docker, crane and oras
	@$(TESTKIT) run --nodes 3 -- tests/clients/run $(CLIENTS)

.PHONY: bench
bench: build ## Compare with nginx and Distribution in one run; prints ratios
	@.ci/deps bench
	$(CARGO) bench --locked --bench ratios

.PHONY: prove
prove: build ## Do everything that a cluster must survive, in full, and print what was seen (ONLY="kills time" for some)
	@.ci/deps
	@env $(ROCKSDB) chaos/prove $(ONLY)

.PHONY: lint
lint: ## Check format, lints, documentation and dependencies; writes nothing
	cargo fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	# A module's header may name its own parts, which are private: the reader has the source.
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --release --locked --workspace --no-deps
	# The advisory database is a repository that not every machine reaches: bans, licences and sources only.
	cargo deny --locked check bans licenses sources
	shellcheck --external-sources .ci/deps .ci/progress .ci/rocksdb .ci/run chaos/prove tests/demo tests/clients/run tests/clients/*.sh

.PHONY: verify
verify: lint test ## Everything that must hold before a change lands; writes nothing

.PHONY: fix
fix: ## Format, and apply what clippy can fix by itself
	cargo fmt --all
	$(CARGO) clippy --release --locked --workspace --all-targets --fix --allow-dirty --allow-staged
