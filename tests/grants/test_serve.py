"""What the worker's first message opens, and what it prints of a crash."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.grants import SCOPES, kind, opened

from cms.core.accounts import Grant
from cms.grants import serve
from cms.grants.messages import Acquire
from cms.grants.vault.keys import Keys
from cms.grants.vault.store import Vault


def test_the_service_is_as_the_first_message_says(state: Path) -> None:
    """It uses the folder and the key that it is opened with, and waits for another worker no longer than it may take."""
    first = opened(state, timeout=0.1)
    grant = Grant("https://login.test/common", "client", "ann@example.test", (SCOPES,))
    assert first.key is not None
    state.mkdir()
    with Vault(str(state), Keys(first.key, environ={})).hold(grant):
        began = time.monotonic()
        outcome = serve.open_service(first).answer(Acquire(1, grant, SCOPES))
        took = time.monotonic() - began

    assert "timeout" == kind(outcome)
    # A vault that was told of no limit waits for half a minute.
    assert took < 15.0


def test_crash_hides_the_exception(capsys: pytest.CaptureFixture[str]) -> None:
    """A crash of the main loop is reported without the exception's text."""
    error = RuntimeError("the-secret")
    serve.crash(RuntimeError, error, None)

    assert "the-secret" not in capsys.readouterr().err
