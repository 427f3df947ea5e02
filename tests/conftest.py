"""Fixtures that several test files share, and the search for secrets that ends every run of the tests."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings
from structlog._config import BoundLoggerLazyProxy
from support import evidence
from support.daemon import Daemon, daemons
from support.reachable import Installation, open_folder
from support.servers import MailServers, mail_servers

from cms.sandbox.entra import Entra

_LEAKS = pytest.StashKey[list[str]]()
_WATCH = pytest.StashKey[evidence.Watch]()

# One test each, of a minute: begun last, it would keep one core busy and leave the other without work.
_BEGUN_FIRST = ("tests/soak/", "tests/test_bench.py")


def pytest_configure(config: pytest.Config) -> None:
    """Open the folder of evidence, once for all processes of the run, and begin to gather."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what it puts in the background so, and Ctrl-C would be lost on the programs under test.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # As `nohup` starts it. This process goes on ignoring it, and what it starts does not inherit that.
        signal.signal(signal.SIGHUP, lambda *_: None)
    # A busy machine makes an example slow, never wrong. Where CI is set, Hypothesis does so by itself.
    settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")
    if not _is_worker(config):
        os.environ[evidence.FOLDER_VARIABLE] = tempfile.mkdtemp(prefix="cms-evidence-")
    evidence.witness_sandbox()
    evidence.witness_subprocesses()
    config.stash[_WATCH] = evidence.Watch()
    config.stash[_WATCH].start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what would be waited for in the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(_BEGUN_FIRST))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what each test has printed and logged; with several workers this runs in the one that collects."""
    for title, text in report.sections:
        evidence.keep("captured", f"{report.nodeid} {title}\n{text}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Search everything that was kept; a secret in it fails the run."""
    session.config.stash[_WATCH].stop()
    if _is_worker(session.config):
        return
    where = Path(os.environ.pop(evidence.FOLDER_VARIABLE))
    session.config.stash[_LEAKS] = leaks = evidence.found_secrets(where)
    if leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    else:
        shutil.rmtree(where)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what the search found."""
    for leak in config.stash.get(_LEAKS, []):
        terminalreporter.write_line(f"SECRET in the evidence of this run: {leak}", red=True)


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """Undo what code under test has done to the interpreter's loggers, which would last only as long as a separate process."""
    before = {name: (logger.level, logger.propagate) for name, logger in _loggers()}
    yield
    for name, logger in _loggers():
        level, logger.propagate = before.get(name, (logging.NOTSET, True))
        logger.setLevel(level)  # which also empties the loggers' caches
    if structlog.is_configured():
        _forget_log()


@pytest.fixture(autouse=True)
def _umask_as_before() -> Iterator[None]:
    """Give the tests' own process its umask back: a command sets it for its own process."""
    before = os.umask(0)
    os.umask(before)
    yield
    os.umask(before)


def _forget_log() -> None:
    """Undo `logs.setup`, which a command that runs in this process has called: else no later test sees a line."""
    structlog.reset_defaults()
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "cms"]
    for value in [value for module in modules for value in vars(module).values()]:
        if isinstance(value, BoundLoggerLazyProxy):
            vars(value).pop("bind", None)


def _loggers() -> list[tuple[str, logging.Logger]]:
    # A thread that a test has given up may still make some.
    known = list(logging.root.manager.loggerDict.items())
    return [(name, each) for name, each in known if isinstance(each, logging.Logger)]


@pytest.fixture(scope="session", autouse=True)
def _keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Learn the keys that tests have made in their own folders."""
    yield
    evidence.keep_files(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """cms where every user can run it."""
    with open_folder("installation") as folder:
        yield Installation(folder / "venv")


@pytest.fixture(scope="session")
def servers() -> Iterator[MailServers]:
    """Real mail servers over a simulated Entra. Every test uses different users."""
    with mail_servers() as running:
        yield running


@pytest.fixture
def entra() -> Iterator[Entra]:
    """A simulated Entra for one test."""
    with Entra() as running:
        yield running


@pytest.fixture
def make_daemon(installation: Installation) -> Iterator[Callable[..., Daemon]]:
    """Make daemons (not started yet) that are stopped after the test."""
    with daemons(installation) as make:
        yield make


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon that runs as the user who runs the tests, not started yet."""
    return make_daemon(os.geteuid())
