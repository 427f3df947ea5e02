"""Another program's sign-in at Google is taken over by a running cms, for an account with the same client."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import evidence
from support import peers as made
from support.at_google import TOKEN_HOST, AtGoogle, at_google
from support.daemon import Daemon, ask
from support.peers import SignedIn
from support.waiting import until

from cms.sandbox.habits import CLIENT_ID, CLIENT_SECRET, GOOGLE_MAIL
from cms.sandbox.tokens import digest

ANN, PASSWORD = "ann@gmail.com", "the proxy's password"

# What each program has stored. Neither asks for more than mail, so Google does not say whose sign-in it is.
FILES: dict[str, Callable[[SignedIn], bytes]] = {
    "mutt_oauth2.py": lambda found: made.mutt_file(found, registration="google"),
    "email-oauth2-proxy": lambda found: made.proxy_file(
        found, PASSWORD, token_url=f"https://{TOKEN_HOST}/token", client_secret=CLIENT_SECRET
    ),
}


@pytest.fixture
def google() -> Iterator[AtGoogle]:
    with at_google([ANN]) as found:
        yield found


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon], google: AtGoogle) -> Daemon:
    """Configured and started, and no one has signed in."""
    daemon = make_daemon(os.geteuid())
    client = daemon.home / "google-client.json"
    client.write_text(json.dumps({"installed": {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}}))
    client.chmod(0o600)
    daemon.configure(
        f'Vault(key=File("{daemon.key}"))\n{google.settings_lines}'
        f'account = GMail_Account("{ANN}", client=File("{client}"))\n'
        f'CredentialServer("{daemon.sockets}/cms.sock", accounts=[account], protocols=["SMTP", "IMAP"])\n'
    )
    daemon.start()
    return daemon


def write(daemon: Daemon, google: AtGoogle, program: str) -> tuple[Path, SignedIn]:
    """Sign Ann in with the other program; return its file, and what is in it."""
    signed_in = SignedIn(ANN, google.refresh_token(ANN, GOOGLE_MAIL), "", CLIENT_ID)
    evidence.keep_secret(signed_in.refresh_token, PASSWORD)
    file = daemon.home / "stored"
    file.write_bytes(FILES[program](signed_in))
    file.chmod(0o600)
    return file, signed_in


@pytest.mark.parametrize("program", FILES)
def test_a_sign_in_is_taken_over(daemon: Daemon, google: AtGoogle, program: str) -> None:
    """The next request gets a token, also after a restart; the other program goes on, because Google replaces nothing."""
    file, signed_in = write(daemon, google, program)
    ended = daemon.run("cms", "import", str(file), stdin=f"{PASSWORD}\n")
    assert 0 == ended.returncode, ended.stdout + ended.stderr
    first = ask(daemon.sockets / "cms.sock", f"SMTP,token {ANN}".encode()).decode()
    file.unlink()
    daemon.stop()
    daemon.forget_tokens()
    daemon.start()
    second = until(lambda: ask(daemon.sockets / "cms.sock", f"IMAP,token {ANN}".encode()).decode(), "a token")

    assert "is signed in (saved, key from key file" in ended.stdout
    assert f"Google does not say who has signed in: cms takes it that it was {ANN}" in ended.stdout
    assert [ANN, ANN] == [google.introspect(each)["email"] for each in (first, second)]
    assert first != second
    assert {digest(signed_in.refresh_token)} == {
        each.refresh for each in google.asked("token", grant_type="refresh_token")
    }
    for secret in (signed_in.refresh_token, PASSWORD, CLIENT_SECRET):
        assert secret not in ended.stdout + ended.stderr + daemon.log


def test_what_google_has_ended_is_not_taken_over(daemon: Daemon, google: AtGoogle) -> None:
    """The command says so, and what to do instead; nothing is stored."""
    file, _ = write(daemon, google, "mutt_oauth2.py")
    google.revoke(ANN)
    ended = daemon.run("cms", "import", str(file))

    assert 0 != ended.returncode
    assert "was not imported" in ended.stderr
    assert f"cms login {ANN}" in ended.stderr
    assert [] == [*(daemon.home / "state").rglob("*.vault")]
