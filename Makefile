# bakefarm: every task of the project. `make` or `make help` lists them.

GO      ?= go
TAGS    := containers_image_openpgp
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
export CGO_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: boot s3-servers help demo test race check bench build image chaos fuzz clean lint deps

help: ## list the tasks
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## bake, run, re-bake and promote a real image on a farm of your own (under a minute, and what a disk takes to boot)
	@examples/demo.sh

test: deps ## every test: unit, conformance, end to end (needs root or sudo only to install missing tools)
	$(GO) test -tags $(TAGS) -vet=off -timeout 9m ./... # make check vets
	cd tests/kubernetes && $(GO) test ./...

race: ## the packages where goroutines meet, under the race detector (needs gcc)
	CGO_ENABLED=1 $(GO) test -race -tags $(TAGS) -timeout 20m ./api/... ./bus/... ./compose ./coordinator ./deploy ./imagestore/... ./worker/...

check: ## what to run before each commit: format, vet, lint, architecture, unit tests
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "run gofmt -w on:"; echo "$$unformatted"; exit 1; }
	@$(MAKE) --no-print-directory -j 2 -Otarget lint unit

.PHONY: unit
unit:
	$(GO) vet -tags $(TAGS) ./...
	$(GO) test -tags $(TAGS) -short -vet=off -p 4 -timeout 80s ./... # -p: many wait for a lease or a deadline

lint: ## static analysis
	$(GO) tool -modfile=tools/go.mod staticcheck -tags $(TAGS) ./...

bench: build ## times bakefarm beside the tools that are present, as a table with ratios
	$(GO) test -tags $(TAGS) -timeout 30m -count 1 -v -run TestBench ./tests/bench -bench-tools
	$(GO) test -tags $(TAGS) -timeout 20m -count 1 -v -run TestScaleFarm ./tests/bench -farm-scale 10000
	$(GO) test -tags $(TAGS) -timeout 20m -count 1 -v -run TestScale ./imagestore/catalog -scale 100000
	$(GO) test -tags $(TAGS) -timeout 10m -run '^$$' -bench 'Million|Decide100k' -benchtime 3x ./imagestore/collect ./imagestore/retention

image: build ## bakefarm's own image, baked by bakefarm: an OCI layout in bin/image
	@deploy/image/image.sh bin/bakefarm bin/image

chaos: build ## many bakes on a farm whose parts are killed, paused and cut off; SEED repeats a run
	$(GO) test -tags $(TAGS) -timeout 30m -count 1 -v ./tests/chaos -chaos 5m -seed $(or $(SEED),0)

boot: build ## disks of all kinds, started for real: by UEFI, BIOS, -kernel, as microVM, on arm64 (many minutes under emulation)
	$(GO) test -tags $(TAGS) -timeout 60m -count 1 -v ./tests/boot -boot

s3-servers: ## the store's tests and the end-to-end scripts against two real S3 servers (builds them: slow)
	@tests/s3-servers.sh

build: ## the one binary: bin/bakefarm
	$(GO) build -tags $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o bin/bakefarm ./cmd/bakefarm

fuzz: ## every fuzz target for a short while
	@tests/fuzz.sh

deps: ## the system tools that the tests drive (installs them when root)
	@tests/deps.sh

clean: ## removes what the tasks made
	rm -rf bin examples/hello/dist
