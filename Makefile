# Everything runs as root on Debian 12 with Go; what else a target needs it installs itself.

SHELL   := /bin/bash
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# One kind of build for everything, so that nothing is compiled twice.
export CGO_ENABLED := 0
export GOFLAGS     := -trimpath

# Where make install puts things, below DESTDIR.
DESTDIR ?=
BINDIR  ?= /usr/local/bin
CNIBIN  ?= /opt/cni/bin
CNICONF ?= /etc/cni/net.d
CONFDIR ?= /etc/sluice
UNITDIR ?= /lib/systemd/system
# The version of the CNI specification that the node's runtime is given: Debian's containerd and
# podman know 1.0.0 at most.
CNI_VERSION ?= 1.0.0

STATICCHECK  := honnef.co/go/tools/cmd/staticcheck@v0.8.2
CLANG_FORMAT := clang-format-19

.DEFAULT_GOAL := help
.PHONY: help build generate check-generated test clients kernels demo bench bench-compare lint install uninstall clean bpffs

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# $(call need,PACKAGES) installs those of Debian's packages that are missing.
define need
	@missing=; for p in $(1); do \
	  dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing+=" $$p"; \
	done; \
	if [ -n "$$missing" ]; then \
	  echo "installing$$missing"; \
	  said=$$({ apt-get update && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y --no-remove --no-install-recommends $$missing; } 2>&1) || \
	    { echo "$$said"; exit 1; }; \
	fi
endef

build: ## the three binaries, into bin/
	$(GO) build -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ \
	  ./cmd/sluiced ./cmd/sluice ./cmd/sluice-cni

generate: ## compile bpf/ into loader/ with the pinned clang
	$(call need,clang-19 llvm-19 libbpf-dev)
	$(GO) generate ./...

check-generated: generate ## fail when that changes what is committed
	$(call need,git)
	@changed=$$(git status --porcelain -- '*_bpfel.go' '*_bpfel.o') || exit 1; \
	if [ -n "$$changed" ]; then echo "not what bpf/ compiles to:"; echo "$$changed"; exit 1; fi

test: bpffs clients bin/bench/nginx ## every test, as root
	$(call need,bpftool containerd runc)
	$(GO) test -count=1 -timeout 10m $$($(GO) list ./... | grep -v /tests)
	$(GO) test -count=1 -timeout 15m -p 1 ./tests/... # by themselves: they wait for real processes

# The clients of other projects that tests use. Tests reach no network: what they need is fetched here, once.
clients: bin/test/eureka-js-client/node_modules
	@cd tests/clients/fargo && $(GO) mod download

bin/test/eureka-js-client/node_modules: $(addprefix tests/clients/eureka-js-client/,package.json package-lock.json)
	$(if $(shell command -v npm),,$(call need,nodejs npm))
	@mkdir -p $(@D) && cp $^ $(@D)
	npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

# What to run there; ./tests/kernels alone takes two minutes.
KERNEL_TESTS ?= ./tests/kernels ./loader

kernels: ## the tests of the kernel side under Linux 5.10, 6.1 and 6.12, in QEMU
	$(call need,qemu-system-x86 busybox-static kmod cpio xz-utils)
	@rm -rf bin/test/kernels && mkdir -p bin/test/kernels
	CGO_ENABLED=0 $(GO) test -c -o bin/test/kernels/ $(KERNEL_TESTS)
	@tests/kernels/run.sh bin/test/kernels

demo: build bpffs ## show the main job on a test node
	$(call need,bpftool)
	@$(GO) build -o bin/test/ ./tests/probe ./tests/demo
	@bin/test/demo -bin bin -probe bin/test/probe

# What of the benchmark: any of quick, kernel, path, scale and control, as in BENCH="quick path".
BENCH ?=
BENCH_PARTS := kernel path scale control
bench-unknown := $(filter-out quick $(BENCH_PARTS),$(BENCH))
bench-flags   := $(if $(filter quick,$(BENCH)),-quick) $(if $(filter-out quick,$(BENCH)),-only '$(filter-out quick,$(BENCH))')

# The path part alone has peers.
bench-peers   := $(if $(filter-out quick,$(BENCH)),$(filter path,$(BENCH)),path)

bench: bpffs $(if $(bench-peers),bin/bench/kubeproxy bin/bench/nginx) ## measure it beside its peers, 16 minutes of a quiet machine; BENCH=quick: 3
	$(if $(bench-unknown),$(error BENCH knows quick $(BENCH_PARTS), and not $(bench-unknown)))
	$(call need,git $(if $(bench-peers),iptables nftables))
	$(GO) build -o bin/bench/bench ./tests/bench
	bin/bench/bench $(bench-flags)

# kube-proxy's code and its 800 packages take minutes to compile and longer to vet: not a part of make lint and make test.
bin/bench/kubeproxy: $(wildcard tests/bench/kubeproxy/*)
	cd tests/bench/kubeproxy && $(GO) test -vet=off . && $(GO) build -o '$(CURDIR)/$@' .

# Unpacked, not installed: Debian's package starts a server that listens on this machine.
NGINX := nginx libnginx-mod-stream
bin/bench/nginx:
	$(call need,libcrypt1 libpcre2-8-0 libssl3 zlib1g)
	@rm -rf $@.part && mkdir -p $@.part
	cd $@.part && fetch='apt-get -qq -o APT::Sandbox::User=root download $(NGINX)' && \
	  { $$fetch || { apt-get -qq update && $$fetch; }; }
	for deb in $@.part/*.deb; do dpkg-deb -x "$$deb" $@.part && rm "$$deb" || exit 1; done
	@mv $@.part $@

bench-compare: bpffs ## measure the working tree beside another revision, REF=...
	$(if $(REF),,$(error say which revision: make bench-compare REF=v1.0))
	$(call need,git)
	$(GO) build -o bin/bench/compare ./tests/bench/compare
	bin/bench/compare -ref '$(REF)'

lint: ## gofmt, go vet, staticcheck, clang-format
	$(call need,git $(CLANG_FORMAT))
	@files=$$(git ls-files '*.go' | grep -v _bpfel) || exit 1; \
	unformatted=$$(gofmt -l $$files) || exit 1; \
	if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	for dir in . tests/clients/fargo; do \
	  (cd $$dir && $(GO) vet ./... && $(GO) run $(STATICCHECK) ./...) || exit 1; done
	$(CLANG_FORMAT) --dry-run -Werror bpf/*.[ch]

bpffs:
	@mountpoint -q /sys/fs/bpf || mount -t bpf -o mode=700 bpf /sys/fs/bpf

install: build ## onto this node, or below DESTDIR
	install -D -m 755 -t '$(DESTDIR)$(BINDIR)' bin/sluiced bin/sluice
	install -D -m 755 -t '$(DESTDIR)$(CNIBIN)' bin/sluice-cni
	install -D -m 644 deploy/sluice-$(CNI_VERSION).conflist '$(DESTDIR)$(CNICONF)/10-sluice.conflist'
	for v in 1.0.0 1.1.0; do install -m 644 deploy/sluice-$$v.conflist \
	  "$(DESTDIR)$(CNICONF)/10-sluice.conflist.$$v"; done # runtimes read *.conflist only
	test -e '$(DESTDIR)$(CONFDIR)/sluiced.yaml' || \
	  install -D -m 600 deploy/sluiced.yaml '$(DESTDIR)$(CONFDIR)/sluiced.yaml'
	install -d '$(DESTDIR)$(UNITDIR)'
	sed 's|/usr/local/bin|$(BINDIR)|; s|/etc/sluice|$(CONFDIR)|' deploy/sluiced.service \
	  >'$(DESTDIR)$(UNITDIR)/sluiced.service'
	chmod 644 '$(DESTDIR)$(UNITDIR)/sluiced.service'
	@if [ -z '$(DESTDIR)' ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

uninstall: ## take it off again; a changed configuration and /var/lib/sluice stay
	@if [ -z '$(DESTDIR)' ]; then \
	  if [ -d /run/systemd/system ]; then systemctl disable --now sluiced.service || true; fi; \
	  if [ -x '$(BINDIR)/sluiced' ]; then '$(BINDIR)/sluiced' --config '$(CONFDIR)/sluiced.yaml' --detach; fi; \
	fi
	rm -f '$(DESTDIR)$(BINDIR)/sluiced' '$(DESTDIR)$(BINDIR)/sluice' '$(DESTDIR)$(CNIBIN)/sluice-cni'
	rm -f '$(DESTDIR)$(CNICONF)/10-sluice.conflist' '$(DESTDIR)$(CNICONF)'/10-sluice.conflist.1.[01].0
	rm -f '$(DESTDIR)$(UNITDIR)/sluiced.service'
	@if [ -z '$(DESTDIR)' ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	@if cmp -s deploy/sluiced.yaml '$(DESTDIR)$(CONFDIR)/sluiced.yaml'; then \
	  rm '$(DESTDIR)$(CONFDIR)/sluiced.yaml'; rmdir --ignore-fail-on-non-empty '$(DESTDIR)$(CONFDIR)'; \
	fi

clean: ## remove bin/
	rm -rf bin
