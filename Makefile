# Every target sets up what it needs in .venv (and, with apt, what QEMU needs) and is quick when that is done.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: demo demo-qemu test test-kvm accept-memory accept-gmm accept-hosts accept-daytwo lint man dist docs conformance bench bench-check trial rows flake check-metrics soak hostile walk fuzz fuzz-coverage clean
.DEFAULT_GOAL := demo

.venv/run.stamp: pyproject.toml scripts/setup-venv
	PYTHON=$(PYTHON) scripts/setup-venv
	touch $@

.venv/dev.stamp: .venv/run.stamp
	PYTHON=$(PYTHON) scripts/setup-venv --group dev
	touch $@

.venv/dist.stamp: .venv/run.stamp
	PYTHON=$(PYTHON) scripts/setup-venv --group dist
	touch $@

.venv/docs.stamp: .venv/run.stamp
	PYTHON=$(PYTHON) scripts/setup-venv --group docs
	touch $@

demo: .venv/run.stamp  ## three embedded VMs share a budget for a minute
	$(BIN)/dynmem demo $(ARGS)

demo-qemu: .venv/run.stamp  ## one embedded VM beside two real Linux guests under QEMU
	scripts/setup-qemu
	$(BIN)/dynmem demo --qemu $(ARGS)

test: .venv/dev.stamp  ## everything that is checked at every change; real QEMU guests included
	scripts/setup-qemu
	scripts/setup-qemu10
	scripts/setup-libvirt
	scripts/setup-browser
	scripts/setup-ansible
	$(PYTEST) -n 2 --dist worksteal -m "not soak and not hostile and not stock" $(ARGS)

test-kvm: .venv/dev.stamp  ## stock kernels on our monitor, on /dev/kvm or in an emulated host; ARGS="tests/kvm/... -k ..."
	scripts/setup-kvm-rig
	$(BIN)/python -m tests.kvm_rig run -- $(ARGS)

accept-memory: .venv/dev.stamp  ## ten rounds of a 256 MiB guest between 128 MiB and 4 GiB, everybody's figures side by side
	$(BIN)/python -m tests.accept $(ARGS)

accept-gmm: .venv/dev.stamp  ## the memory manager in six scenes of real processes, each figure with its rule; ARGS="shortage"
	scripts/setup-qemu
	$(BIN)/python -m tests.accept.gmm $(ARGS)

accept-hosts: .venv/dev.stamp  ## a host of other people's QEMUs, from the first scan to the last release; both sides' figures
	scripts/setup-qemu
	$(BIN)/python -m tests.accept.hosts $(ARGS)

accept-daytwo: .venv/dev.stamp  ## ten minutes of a host with all readers on, then its history answers; ARGS="--minutes 2 --pictures"
	scripts/setup-qemu
	scripts/setup-browser
	-scripts/setup-prometheus
	$(BIN)/python -m tests.accept.daytwo $(ARGS)

lint: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/public_types.py

man: .venv/run.stamp  ## the man pages, in build/man, of the same texts as --help
	$(BIN)/python -m scripts.man

dist: .venv/dist.stamp  ## what a release has, in dist: sdist, wheel and .debs of the last commit; ARGS=--no-debs
	$(BIN)/python -m scripts.dist $(ARGS)

docs: .venv/docs.stamp  ## the site, in build/docs: the Markdown, and the public names with their docstrings; no warning
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --show-traceback --fresh-env --quiet -c docs . build/docs
	@echo "the site begins at build/docs/index.html"

conformance: .venv/run.stamp  ## our two ends against the suite that other implementers can run on theirs
	$(BIN)/python -m dynmem.conformance $(ARGS)

bench: .venv/dev.stamp  ## every benchmark, both sides in one run
	$(BIN)/python -m bench $(ARGS)

bench-check: .venv/dev.stamp  ## the same, held against the bounds each one states
	$(BIN)/python -m bench --check $(ARGS)

trial: .venv/run.stamp  ## who is killed: dynmem beside its rivals in real guests; SEEDS=10 ARGS="--rates 64 --policies mom,dynmem"
	scripts/setup-qemu
	$(BIN)/python -m bench.trial --seeds $(or $(SEEDS),1) $(ARGS)

rows: .venv/dev.stamp  ## each promise of docs/rows.toml: proven, failing or open (STRICT=1: open fails too)
	scripts/setup-qemu
	scripts/setup-qemu10
	scripts/setup-libvirt
	scripts/setup-browser
	scripts/setup-ansible
	scripts/setup-kvm-rig
	scripts/setup-prometheus
	$(BIN)/python scripts/rows.py $(if $(STRICT),--strict) $(ARGS)

flake: .venv/dev.stamp  ## the tests N times (10) in random order, half of them on a busy machine; ARGS="--seed S --load all PATH..."
	scripts/setup-qemu
	scripts/setup-qemu10
	scripts/setup-libvirt
	scripts/setup-browser
	scripts/setup-ansible
	$(BIN)/python scripts/flake.py --runs $(or $(N),10) $(ARGS)

check-metrics: .venv/dev.stamp  ## alert and recording rules and dashboards by Debian's promtool and prometheus, which are fetched, not installed
	scripts/setup-prometheus
	$(PYTEST) tests/metrics tests/contrib/test_alerts.py tests/contrib/test_recording.py tests/contrib/test_dashboards.py $(ARGS)

soak: .venv/dev.stamp  ## the long ones
	scripts/setup-qemu
	scripts/setup-ansible
	$(PYTEST) -m "soak and not stock" $(ARGS)

hostile: .venv/dev.stamp  ## the whole cast of hostile guests and monitors, beside honest ones
	$(PYTEST) -m hostile tests/hostile $(ARGS)

walk: .venv/dev.stamp  ## ten million steps of every interleaving of host, guest and rings; ARGS="--messages N --opens N ..."
	$(BIN)/python -m tests.walk $(or $(ARGS),--opens 3 --closes 2 --resets 2)

fuzz: .venv/dev.stamp  ## N mutants (1000000) for every parser and machine; ARGS names some, or another --seed
	$(BIN)/python -m tests.fuzz --inputs $(or $(N),1000000) $(ARGS)

fuzz-coverage: .venv/dev.stamp  ## the same, guided by coverage; installs atheris. ARGS="--seconds N --keep NAME..."
	$(BIN)/pip install --quiet --disable-pip-version-check "atheris>=3"
	$(BIN)/python -m tests.fuzz.coverage $(ARGS)

clean:
	rm -rf .venv build dist .fuzz .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
