"""A restart costs nothing: the tokens that were held are served, and Entra is asked only for what is due."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.daemon import Daemon, account_line, ask, settings_lines
from support.proofs import write_private
from support.waiting import until
from support.whole_daemon import HOUR, WholeDaemon, on_moving_clock, whole_daemon

from cms.core.accounts import Grant, Source, mail_scopes
from cms.core.lifecycle import Granted, token_hash
from cms.grants.vault import minted
from cms.grants.vault.entry_file import Entry
from cms.grants.vault.keys import Keys
from cms.grants.vault.store import Vault
from cms.sandbox.directory import APP_ID, APP_SECRET, CLIENT_ID, EXCHANGE, TENANT, Client
from cms.sandbox.entra import Entra

ANN = "ann@restarts.test"

# What the accounts of `whole_daemon` ask for.
SCOPES = mail_scopes(EXCHANGE, ("SMTP", "IMAP"))

MANY = 200


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon], entra: Entra) -> Daemon:
    """A daemon that runs, with Ann signed in."""
    entra.add_user(ANN)
    daemon = make_daemon(os.geteuid())
    server = f'CredentialServer("{daemon.sockets}/cms.sock", accounts=[ann], protocols=["SMTP"])\n'
    daemon.configure(settings_lines(daemon.home, entra) + account_line("ann", ANN, entra) + server)
    daemon.start_unknown()
    daemon.sign_in(ANN, entra)
    return daemon


def token(daemon: Daemon, *options: str) -> bytes:
    """Return what the socket answers, b"" for no token."""
    return ask(daemon.sockets / "cms.sock", ",".join(("SMTP", "token", *options)).encode() + f" {ANN}\n".encode())


def served(daemon: Daemon) -> bytes:
    """Return the token, which on a busy machine comes later after a start than a client waits."""
    return until(lambda: token(daemon), "a token")


def test_with_entra_out_of_reach_the_held_token_is_served(daemon: Daemon, entra: Entra) -> None:
    """After `systemctl restart`, and after `kill -9` of the daemon. One that a mail server has refused is not there again."""
    held = token(daemon)
    entra.go_down()
    for number in (signal.SIGTERM, signal.SIGKILL):
        daemon.restart(number)
        assert held == served(daemon)

    refused = token_hash(held.decode().strip())

    def is_heard() -> bool:
        """Whether Entra has been asked for another one: not while this one has only just come."""
        # A client's time may be over before it is known that there is no other.
        assert token(daemon, f"rejected={refused}") in (held, b"")
        return '"failing"' in daemon.cms("status", "--json").stdout

    until(is_heard, "the attempt")
    daemon.restart()
    assert b"" == token(daemon)


def test_what_a_sign_out_deletes_does_not_come_back(daemon: Daemon, entra: Entra) -> None:
    """Neither does a token of a sign-in that was left."""
    assert token(daemon)
    assert 0 == daemon.cms("logout", "-c", str(daemon.config), ANN).returncode
    daemon.restart()

    assert b"" == token(daemon)
    assert 0 == entra.count("token", grant_type="refresh_token")


def test_an_application_has_its_token_again(make_daemon: Callable[..., Daemon], entra: Entra) -> None:
    """It has no sign-in, and its token is stored all the same; `cms logout --all` deletes it."""
    entra.register(Client(APP_ID, (), secret=APP_SECRET, mailboxes=(ANN,)))
    daemon = make_daemon(os.geteuid())
    secret = write_private(daemon.home / "secret", APP_SECRET)
    daemon.configure(
        settings_lines(daemon.home, entra)
        + f'ann = Office365_Account("{ANN}", authority="{entra.authority}", sign_in="app", tenant="{TENANT}",'
        f' client_id="{APP_ID}", client_secret=File("{secret}"))\n'
        f'CredentialServer("{daemon.sockets}/cms.sock", accounts=[ann], protocols=["SMTP"])\n'
    )
    daemon.resume(daemon.sockets / "cms.sock", ANN)
    held = token(daemon)
    entra.go_down()
    daemon.restart()
    assert held == served(daemon)
    assert 0 == daemon.cms("logout", "-c", str(daemon.config), "--all").returncode
    assert [] == [*daemon.home.rglob("*.vault"), *daemon.home.rglob(daemon.key.name)]
    daemon.restart()

    assert b"" == token(daemon)


def fill(entra: Entra, state: Path, folder: Path, age: float, *, refused: bool = False) -> None:
    """Store the sign-ins of many users, each with an access token of this age, whose successor was `refused`."""
    vault = Vault(str(state), Keys(Source("file", (str(folder / "key"),)), environ={}))
    then = minted.now()
    vault.now = lambda: replace(then, wall=then.wall - age, boot=then.boot - age)
    for user in users():
        grant = Grant(f"{entra.authority}/common", CLIENT_ID, user, (SCOPES,))
        granted = Granted(f"token-of-{user}", vault.now().boot, HOUR, SCOPES)
        with vault.hold(grant, SCOPES) as held:
            held.prepare()
            held.store(Entry("{}", "oid.tid", user, time.time() - 24 * HOUR), granted)
        if refused:
            with vault.hold(grant, SCOPES) as held:
                entry = held.read()
                assert entry
                held.prepare()
                held.mark_refused()
                held.store(entry)


def users() -> list[str]:
    return [f"user{number}@restarts.test" for number in range(MANY)]


@on_moving_clock
async def test_a_start_with_many_accounts_asks_for_nothing(tmp_path: Path) -> None:
    """Each is served what was stored for it, by one worker, and Entra is asked when a token is due and no sooner."""
    options = {"signed_in": False, "stored": lambda entra, state: fill(entra, state, tmp_path, HOUR / 3)}
    async with whole_daemon(tmp_path, users(), **options) as daemon:  # type: ignore[arg-type]  # each is what it says
        assert [f"token-of-{user}" for user in users()] == await _tokens(daemon)
        assert (0, 0) == (len(daemon.entra.requests), daemon.exit_code())
        assert 1 == len(daemon.workers())


@on_moving_clock
async def test_what_is_due_is_asked_for_at_once(tmp_path: Path) -> None:
    """Tokens that have expired are not served, and their sign-ins are redeemed: all of them here, which are no good."""
    options = {"signed_in": False, "stored": lambda entra, state: fill(entra, state, tmp_path, HOUR)}
    async with whole_daemon(tmp_path, users()[:3], **options) as daemon:  # type: ignore[arg-type]  # each is what it says
        assert {"sign-in-required"} == {(await daemon.refusal(user))["code"] for user in users()[:3]}


@on_moving_clock
async def test_what_was_refused_before_is_known_at_once(tmp_path: Path) -> None:
    """The held tokens are served, and the first look says that a sign-in is needed: not only when they are due."""
    options = {"signed_in": False, "stored": lambda entra, state: fill(entra, state, tmp_path, HOUR / 3, refused=True)}
    async with whole_daemon(tmp_path, users()[:3], **options) as daemon:  # type: ignore[arg-type]  # each is what it says
        assert {"sign-in-required"} == {daemon.row(user)["state"] for user in users()[:3]}
        assert [f"token-of-{user}" for user in users()[:3]] == [
            (await daemon.told(user))["token"] for user in users()[:3]
        ]


async def _tokens(daemon: WholeDaemon) -> list[str]:
    return [(await daemon.told(user)).get("token", "") for user in users()]
