"""What the worker's first message opens, and what it prints of a crash."""

from __future__ import annotations

import subprocess
import sys
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


ONLY_GOOGLES = """
import sys
from cms.core.accounts import Grant, Source
from cms.grants.messages import Acquire, Open, SignIn
from cms.grants.serve import open_service
from cms.grants.service import Conversation
from cms_oauth.providers import Server

server = Server(authorization_endpoint="https://login.test/a", token_endpoint="https://login.test/t")
grant = Grant("https://login.test/t", "x", "ann@gmail.com", (("mail",),), provider="google", server=server)
service = open_service(Open(sys.argv[1], key=Source("memory")))
told = []
conversation = Conversation(lambda prompt: (told.append(prompt.url), conversation.cancel()))
print(service.sign_in(SignIn(1, grant, "paste"), conversation).trouble.kind, told[0].partition("?")[0])
print(service.acquire(grant, ("mail",)).trouble.kind, [name for name in sys.modules if "msal" in name])
"""


def test_a_daemon_with_googles_accounts_only_never_imports_msal(state: Path) -> None:
    """A sign-in with another provider begins, and a token is asked for, without Microsoft's library."""
    command = [sys.executable, "-c", ONLY_GOOGLES, str(state)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    assert ["cancelled https://login.test/a", "no-sign-in []"] == said.splitlines()
