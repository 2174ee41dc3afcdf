# The verbs of this repository; `make help` lists them. CI calls nothing else.
SHELL         := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS     += --no-print-directory
.DELETE_ON_ERROR:

GO       ?= go
# Packages that are built and tested at a time.
P        ?= 2
# For each fuzz target, for the soak, and for each chaos test.
FUZZTIME ?= 1m
SOAK     ?= 30m
CHAOS    ?= 3m
# Flags of the fan-out benchmark; BENCH='-rows one,many -rounds 3' is a short one.
BENCH    ?= -svg bin/fanout.svg
# Arguments of `pollcast up`, such as ARGS='-config my.yaml'.
ARGS     ?=

# The race detector needs a C compiler. Building and running needs none.
RACE = $(shell command -v "$$($(GO) env CC | cut -d' ' -f1)" >/dev/null 2>&1 && echo -race)
# Of tests that need what is no Go module; vet and staticcheck read them too.
TAGS = system,soak,chaos
TOOLS = bin/nats bin/staticcheck bin/govulncheck
CONSOLE = services/gateway/console
# The fan-out benchmark is a module outside of go.work; work and go list -m leave it out.
FANOUT = services/gateway/bench
POLLCAST = $(GO) run ./services/pollcast/cmd/pollcast

.PHONY: help
help: ## list the verbs
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: up
up: bin/pollcast ## build and run everything in one process, watching this host
	@exec bin/pollcast up $(ARGS)

.PHONY: build
build: ## build every program into bin/
	CGO_ENABLED=0 $(GO) build -p $(P) -trimpath -o bin/ ./services/hostrpc/cmd/hostrpc ./services/poller/cmd/poller \
		./services/gateway/cmd/gateway ./services/pollcast/cmd/pollcast

.PHONY: bin/pollcast
bin/pollcast:
	@CGO_ENABLED=0 $(GO) build -p $(P) -trimpath -o bin/ ./services/pollcast/cmd/pollcast

.PHONY: test
test: lint modules bin/nats ## run every test that needs only Go and make (about 5 minutes)
	@[ -n "$(RACE)" ] || echo "no C compiler here: the tests run without the race detector"
	$(GO) test $(RACE) -count=1 -p $(P) -timeout 6m $$($(GO) list work | grep -v '/e2e$$')
	POLLCAST_NATS_CLI="$(CURDIR)/bin/nats" $(GO) test -count=1 -timeout 6m ./services/pollcast/e2e

.PHONY: test-system
test-system: bin/nats ## run what needs Debian packages or Docker: aria2, nginx, haproxy, compose, the console's build
	@.ci/need
	@$(MAKE) proto generated
	cd $(CONSOLE) && npm run --silent check
	POLLCAST_NATS_CLI="$(CURDIR)/bin/nats" .ci/system
	deploy/docker/test.sh

.PHONY: test-kubernetes
test-kubernetes: ## run the manifests on a real cluster (by hand; see deploy/README.md)
	deploy/kubernetes/test.sh

.PHONY: lint
lint: bin/staticcheck ## gofmt, vet and staticcheck
	@files=$$(find pkg services -name node_modules -prune -o -name '*.go' -exec "$$($(GO) env GOROOT)/bin/gofmt" -l {} +) && \
		{ [ -z "$$files" ] || { echo "not formatted, run make fmt:"; echo "$$files"; exit 1; }; }
	$(GO) vet -tags $(TAGS) work
	bin/staticcheck -tags $(TAGS) work
	cd $(FANOUT) && GOWORK=off $(GO) vet ./... && GOWORK=off "$(CURDIR)/bin/staticcheck" ./...

.PHONY: modules
modules: ## check that each module says by itself what it needs, as go.work would hide
	@bad=; for dir in $$($(GO) list -m -f '{{.Dir}}') $(FANOUT); do \
		echo "$${dir#$(CURDIR)/}: go mod tidy -diff, go vet without the workspace"; \
		GOWORK=off $(GO) -C "$$dir" mod tidy -diff && GOWORK=off $(GO) -C "$$dir" vet -tags $(TAGS) ./... || bad=1; \
	done; [ -z "$$bad" ]

.PHONY: proto
proto: ## lint the protocol and compare it with the previous commit's
	cd proto && GOWORK=off $(GO) tool buf lint
	@if git rev-parse --verify --quiet HEAD~1:proto/buf.yaml >/dev/null; then set -x; \
		cd proto && GOWORK=off $(GO) tool buf breaking --against '../.git#ref=HEAD~1,subdir=proto'; \
	else echo "no previous commit here to compare the protocol with"; fi

.PHONY: gen
gen: ## make what is generated: protobuf code, the configuration's reference and schema
	cd proto && GOWORK=off $(GO) tool buf generate
	@mkdir -p bin
	$(POLLCAST) check -schema >bin/schema.tmp && mv bin/schema.tmp docs/pollcast.schema.json
	$(POLLCAST) check -reference >bin/reference.tmp && .ci/insert docs/settings.md bin/reference.tmp

.PHONY: console
console: ## build the gateway's web console (needs Node 20; its output is committed)
	cd $(CONSOLE) && npm ci --silent && npm run --silent build

.PHONY: generated
generated: ## fail when what is committed is not what gen and console make
	@.ci/generated

.PHONY: vuln
vuln: bin/govulncheck ## look for known vulnerabilities in what the programs call
	@.ci/vuln

.PHONY: fuzz
fuzz: ## fuzz every target for FUZZTIME
	@FUZZTIME=$(FUZZTIME) .ci/fuzz

.PHONY: bench
bench: ## run every benchmark
	$(GO) test -run '^$$' -bench . -benchmem -p 1 -timeout 20m work

.PHONY: bench-fanout
bench-fanout: ## what the gateway's fan-out costs, beside a bare loop of writes and a textbook hub (about 6 minutes)
	@GOWORK=off $(GO) -C $(FANOUT) build -p $(P) -o "$(CURDIR)/bin/bench-fanout" . && $(GO) build -p $(P) -o bin/ ./services/poller/cmd/poller
	@bin/bench-fanout -poller bin/poller $(BENCH)

.PHONY: soak
soak: ## hold connections for SOAK (30m) and see that none ends and nothing grows (by hand)
	SOAK=$(SOAK) $(GO) test -count=1 -timeout 24h -tags soak -run Soak -v ./services/gateway

.PHONY: chaos
chaos: ## kill, freeze and cut off processes at random for CHAOS each, and hold what is left against the contract (by hand)
	CHAOS=$(CHAOS) $(GO) test -count=1 -timeout 60m -tags chaos -run Chaos -v ./services/pollcast/e2e
	$(GO) test -count=1 -timeout 20m -tags chaos -run Chaos -v ./services/poller

.PHONY: storm
storm: ## kill a gateway under 10,000 clients, and see them all resume on another (by hand)
	$(GO) test -count=1 -timeout 10m -tags soak -run TestStormOf10000 -v ./services/pollcast/e2e

.PHONY: fmt
fmt: ## format the Go code
	@find pkg services -name node_modules -prune -o -name '*.go' -exec "$$($(GO) env GOROOT)/bin/gofmt" -w {} +

.PHONY: clean
clean: ## remove what was built
	rm -rf bin $(CONSOLE)/node_modules

# What is no part of the programs: outside of go.work, see .ci/tools/go.mod.
$(TOOLS): .ci/tools/go.mod .ci/tools/go.sum
	@echo "building $(@F)"
	@GOWORK=off $(GO) -C .ci/tools build -p $(P) -trimpath -o "$(CURDIR)/$@" "$$(GOWORK=off $(GO) -C .ci/tools list tool | grep '/$(@F)$$')"
