# Everything a contributor runs. "make" alone lists the targets.
# Needs Go and GNU make; a race build also needs a C compiler.

GO       ?= go
FUZZTIME ?= 10s
TIMEOUT  ?= 10m
SOAK     ?= 20m

# Modules with tests: the root and the nested ones, which keep heavy test
# dependencies out of the root go.mod. internal/tools only pins versions.
MODULES := . $(filter-out internal/tools,$(sort $(patsubst %/go.mod,%,$(shell find internal -name go.mod -not -path '*/testdata/*'))))

# $(call each,COMMAND) runs a command in every module and stops at the first
# that fails.
each = @set -e; for m in $(MODULES); do [ $$m = . ] || echo "in $$m:"; (cd $$m && $(1)); done

# Runs a tool at the version that internal/tools/go.mod pins; the module in the
# working directory and its go.mod stay as they are.
tool = $(GO) tool -modfile=$(CURDIR)/internal/tools/go.mod

.DEFAULT_GOAL := help
.PHONY: help test unit fmt vet staticcheck lint api apidiff baseline race fuzz soak bench microbench cover sizes newcomer

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: fmt vet staticcheck unit ## everything that CI checks

# Two packages at a time: most tests wait for real servers, but several are about
# time, so more of them would hurt each other. The two that take longest come
# first. The tests of HTTP run once more without the fast lane, and those of
# memory and time alone and without the race detector, which has its own; with it
# sockets are read by other calls.
unit: ## all tests, with the race detector and in random order
	$(call each,$(GO) test -race -shuffle=on -p 2 -timeout $(TIMEOUT) $$([ $$m != . ] || echo ./proxy ./dnsserver) ./...)
	$(GO) test -race -shuffle=on -timeout $(TIMEOUT) -run 'HTTP[^23]|Headers|Edits|WebSocket|Upgrade|Redirect|Static|Upload|Access|RequestID|Sticky|Retry' ./proxy -args -nethttp
	$(GO) test -count=1 -timeout $(TIMEOUT) -p 1 -run 'Allocat|LookupIsFlat|MillionSessions|MemoryOf|Nonblock' ./internal/conf ./internal/nonblock ./proxy ./dnsserver ./radius ./email/...

fmt: ## list files that gofmt would change, and fail if there are any
	@files=$$(gofmt -l . | grep -v /testdata/); [ -z "$$files" ] || { echo "gofmt -w wanted on:"; echo "$$files"; exit 1; }

# Tests may use what only Unix has, so for Windows the library itself must do.
vet: ## go vet, also for macOS; build for Windows
	$(call each,$(GO) vet ./...)
	@GOOS=darwin CGO_ENABLED=0 $(GO) vet ./...
	@GOOS=windows CGO_ENABLED=0 $(GO) build ./...

staticcheck: ## staticcheck
	$(call each,$(tool) staticcheck ./...)

lint: fmt staticcheck ## gofmt, staticcheck and the house rules of internal/lint
	@$(GO) test -count=1 -timeout $(TIMEOUT) ./internal/lint

api: ## write the listings in api anew
	@$(GO) test -count=1 -timeout $(TIMEOUT) ./internal/lint -run 'TestAPI$$' -args -update

apidiff: ## what would break programs that were written for api/baseline.zip
	@out=$$($(tool) apidiff -m -incompatible api/baseline.zip github.com/dcrouter/dcrouter 2>&1) || { echo "$$out"; exit 1; }; \
		echo "$$out" | grep -v '^Ignoring internal package' || echo "nothing"

# With -trimpath it has no paths of this machine. The test leaves out what
# others cannot import.
baseline: ## write api/baseline.zip anew: only at a release
	@GOFLAGS=-trimpath $(tool) apidiff -m -w api/baseline.zip github.com/dcrouter/dcrouter
	@$(GO) test -count=1 -timeout $(TIMEOUT) ./internal/lint -run 'TestBaseline$$' -args -update

race: ## short tests three times over, with the race detector
	$(call each,$(GO) test -race -shuffle=on -short -count=3 -timeout 30m ./...)

# Go's fuzzer fails now and then for nothing but the end of its time, without an
# input that failed: that target has a second try.
fuzz: ## each fuzz target for FUZZTIME (10s)
	@set -e; log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	for file in $$(grep -rl --include='*_test.go' '^func Fuzz' . | sort); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			echo "$${file%/*} $$target"; \
			try() { (cd "$${file%/*}" && $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x -timeout $(TIMEOUT) .) >"$$log" 2>&1; }; \
			try || { grep -q 'context deadline exceeded' "$$log" && ! grep -q 'Failing input' "$$log" && try; } || { cat "$$log"; exit 1; }; \
		done; \
	done

soak: ## a gateway with everything on for SOAK (20m), while its peers fail at random
	@cd internal/e2e && SOAK=$(SOAK) $(GO) test -count=1 -run TestSoak -v -timeout 24h ./soak

bench: ## us against HAProxy, Caddy, Knot, CoreDNS, FreeRADIUS and others, into BENCHMARKS.md
	@cd internal/bench && $(GO) run . -out ../../BENCHMARKS.md

microbench: ## Go benchmarks
	@$(GO) test -run '^$$' -bench . -benchmem -timeout 30m ./...

cover: ## test coverage of the root module, by package and in all (cover.out)
	@$(GO) test -short -timeout $(TIMEOUT) -coverprofile=cover.out -coverpkg=./... ./... >/dev/null
	@$(GO) tool cover -func=cover.out | tail -n 1

# As people ship them; the test of internal/lint has the same programs built as
# everything else is.
sizes: ## size of the least program with each package
	@CGO_ENABLED=0 GOFLAGS=-trimpath $(GO) test -count=1 -v -run 'TestBinarySize$$|TestModuleCount$$' ./internal/lint | grep -v '^=== '

newcomer: ## time from a fresh clone to the first proxied request, with empty caches
	@.ci/newcomer
