"""Applications that sign in without a person: one token for many mailboxes, and what mends itself."""

from __future__ import annotations

import json
import smtplib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon, ask
from support.metadata import ASSIGNED_ID, OWN_ID, Metadata
from support.proofs import DAY, AppCertificate, Issuer, write_private
from support.submitting import log_in, sasl
from support.waiting import until
from support.whole_daemon import HOUR, WholeDaemon, on_moving_clock, whole_daemon

from cms.sandbox.directory import APP_ID, APP_SECRET, TENANT, Client
from cms.sandbox.entra import Entra
from cms.sandbox.submission import Submission

SALES, JOBS, STRANGER = (f"{name}@domain.com" for name in ("sales", "jobs", "stranger"))


def register(entra: Entra, **known: Any) -> None:
    """Register the application with what it is known by; the administrator lets it open two mailboxes."""
    entra.register(Client(APP_ID, (), mailboxes=(SALES, JOBS), **known))


def accounts(folder: Path, entra: Entra, said: str) -> str:
    """Return a configuration of two mailboxes of one application. There is no Vault: nothing is to be kept."""
    lines = [f'Tls(ca="{entra.ca_file}")']
    for name, user in (("sales", SALES), ("jobs", JOBS)):
        lines.append(f'{name} = Office365_Account("{user}", authority="{entra.authority}", {said})')
    lines.append(f'CredentialServer("{folder}/cms.sock", [sales, jobs], protocols=["SMTP", "IMAP"])')
    return "\n".join(lines) + "\n"


def app(said: str) -> str:
    """Return the arguments of an application's mailbox."""
    return f'sign_in="app", tenant="{TENANT}", client_id="{APP_ID}", {said}'


@pytest.fixture
def server(entra: Entra) -> Iterator[Submission]:
    """A submission server that lets an application in under the names of its mailboxes."""
    with Submission(entra.introspect, entra.cert_file) as running:
        yield running


def test_one_token_serves_every_mailbox(daemon: Daemon, entra: Entra, server: Submission) -> None:
    """One real `cms run`, unattended, without vault or key, serves two mailboxes and every protocol with one token."""
    register(entra, secret=APP_SECRET)
    secret = write_private(daemon.home / "secret", f"{APP_SECRET}\n")
    daemon.configure(accounts(daemon.home, entra, app(f'client_secret=File("{secret}")')))
    sock = daemon.home / "cms.sock"
    daemon.resume(sock, SALES)
    served = [sasl(sock, user, protocol) for user in (SALES, JOBS) for protocol in ("SMTP", "IMAP")]
    (token,) = {each for _, each in served}

    assert [SALES, SALES, JOBS, JOBS] == [name for name, _ in served]
    assert 1 == entra.count("token")
    (asked,) = entra.asked("token", grant_type="client_credentials")
    assert "https://outlook.office365.com/.default" == asked.scope
    for user in (SALES, JOBS):
        log_in(entra, server, user, token)
    with pytest.raises(smtplib.SMTPAuthenticationError):
        log_in(entra, server, STRANGER, token)
    assert [] == list(daemon.home.rglob("*.vault"))


def test_what_the_owner_sees(daemon: Daemon, entra: Entra) -> None:
    """Status shows no sign-in, `cms login` is refused, and `cms logout` has nothing to delete."""
    register(entra, secret=APP_SECRET)
    secret = write_private(daemon.home / "secret", APP_SECRET)
    daemon.configure(accounts(daemon.home, entra, app(f'client_secret=File("{secret}")')))
    daemon.resume(daemon.home / "cms.sock", SALES)
    status, check = daemon.cms("status"), daemon.cms("status", "--check")
    login, logout = (daemon.cms(word, "-c", str(daemon.config), SALES) for word in ("login", "logout"))

    assert (0, 0) == (status.returncode, check.returncode)
    assert "MEMORY ONLY" not in status.stdout
    assert "none needed: an application" in " ".join(status.stdout.split())
    assert (False, False) == (login.returncode == 0, logout.returncode == 0)
    assert "sales@domain.com needs no sign-in: an application gets its tokens by itself" in login.stdout + login.stderr
    assert "remove it from the configuration, then `cms reload`" in " ".join((logout.stdout + logout.stderr).split())
    assert SALES == sasl(daemon.home / "cms.sock", SALES)[0]


@asynccontextmanager
async def at_work(folder: Path, said: Callable[[Entra], str], **options: Any) -> AsyncIterator[WholeDaemon]:
    """Run a daemon whose accounts become the application's two mailboxes."""
    async with whole_daemon(folder, signed_in=False, **options) as daemon:
        (folder / "cms.cfg").write_text(accounts(folder, daemon.entra, said(daemon.entra)))
        assert (await daemon.app.commands.reload()).ok
        yield daemon


async def fetch_anew(daemon: WholeDaemon, **wanted: object) -> None:
    """Have a new token fetched, as `cms refresh` does, and see that it is one."""
    result = await daemon.app.commands.refresh("")
    assert result.ok, result
    assert {"active": True} | wanted == {
        name: value
        for name, value in daemon.entra.introspect((await daemon.told(SALES))["token"]).items()
        if name in {"active", *wanted}
    }


@on_moving_clock
async def test_a_secret_that_was_replaced(tmp_path: Path) -> None:
    """Entra refuses an expired secret, and cms says what to do. It then reads a new secret from the file by itself."""
    secret = write_private(tmp_path / "secret", "old")

    def said(entra: Entra) -> str:
        register(entra, secret="old", expired=True)
        return app(f'client_secret=File("{secret}")')

    async with at_work(tmp_path, said) as daemon:
        await daemon.settled()
        row, refusal = daemon.row(SALES), await daemon.refusal(JOBS)
        register(daemon.entra, secret="new")
        write_private(secret, "new")
        await daemon.pass_time(HOUR / 2 + 60)

        assert ("refused", 7000222, "unavailable") == (row["state"], row["problem"]["aadsts"], refusal["code"])
        assert "the client secret has expired" in row["problem"]["message"]
        assert "where client_secret points" in row["next_move"]
        assert "login" not in row["next_move"]
        assert 0 < refusal["retry_after"] <= HOUR / 2
        assert "token" in await daemon.told(SALES)
        assert "ok" == daemon.row(JOBS)["state"]


@on_moving_clock
async def test_a_refused_application_does_not_insist(tmp_path: Path) -> None:
    """While the refusal lasts a day, cms asks Entra about fifty times, never twice within a quarter of an hour."""
    secret = write_private(tmp_path / "secret", "wrong")

    def said(entra: Entra) -> str:
        register(entra, secret="right")
        return app(f'client_secret=File("{secret}")')

    async with at_work(tmp_path, said) as daemon:
        await daemon.pass_time(4 * HOUR)
        moments = [each.at for each in daemon.entra.asked("token")]

        assert {7000215} == {each.aadsts for each in daemon.entra.asked("token")}
        assert all(later - earlier >= 14 * 60 for earlier, later in pairwise(moments))
        assert 8 <= len(moments) <= 17


@on_moving_clock
async def test_a_certificate_renewed_in_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is read anew for each token; the month before its end is told in status, in JSON, and in the log once."""
    async with whole_daemon(tmp_path, signed_in=False) as daemon:
        now = daemon.clock.truth()
        old, new = AppCertificate(now + 20 * DAY), AppCertificate(now + 300 * DAY)
        path = write_private(tmp_path / "app.pem", old.pem())
        register(daemon.entra, certificates=(old.public, new.public))
        (tmp_path / "cms.cfg").write_text(accounts(tmp_path, daemon.entra, app(f'certificate=File("{path}")')))
        assert (await daemon.app.commands.reload()).ok
        await fetch_anew(daemon)
        await fetch_anew(daemon)
        before, logged = daemon.row(SALES), capsys.readouterr().out
        register(daemon.entra, certificates=(new.public,))
        refused = await daemon.app.commands.refresh(SALES)
        served = "token" in await daemon.told(SALES)
        write_private(path, new.pfx())
        await fetch_anew(daemon)
        after = daemon.row(JOBS)

    assert int(old.ends) == before["credential_expires_at"]
    assert "the application's certificate ends in 1" in before["warning"]
    assert 1 == logged.count("the application's certificate ends in 1")
    assert (False, True) == (refused.ok, served)
    assert "the certificate was not accepted" in refused.message
    assert "upload the certificate" in refused.hint
    assert (int(new.ends), "") == (after["credential_expires_at"], after["warning"])


@on_moving_clock
async def test_an_assertion_that_is_rotated(tmp_path: Path) -> None:
    """What Kubernetes writes, readable by all of its pod, is read anew each time; one that has expired says so."""
    issuer = Issuer()
    path = tmp_path / "assertion"

    def said(entra: Entra) -> str:
        register(entra, federations=(issuer.federation,))
        write_private(path, issuer.assertion(entra.directory.now()), 0o644)
        return app(f'client_assertion=File("{path}")')

    async with at_work(tmp_path, said) as daemon:
        await fetch_anew(daemon)
        await daemon.pass_time(2 * HOUR)
        stale = daemon.row(SALES)
        write_private(path, issuer.assertion(daemon.entra.directory.now()), 0o644)
        await fetch_anew(daemon)

        assert ("refused", 700024) == (stale["state"], stale["problem"]["aadsts"])
        assert "what client_assertion points to is renewed" in stale["next_move"]
        assert "ok" == daemon.row(SALES)["state"]


@pytest.mark.parametrize("where", ["vm", "app_service"])
@pytest.mark.parametrize("assigned", [False, True])
def test_a_machines_identity(daemon: Daemon, entra: Entra, server: Submission, where: str, assigned: bool) -> None:
    """Azure vouches for its machine: no application, no tenant and no secret in the configuration."""
    metadata = Metadata(entra, [SALES, JOBS])
    named = f', client_id="{ASSIGNED_ID}"' if assigned else ""
    daemon.configure(accounts(daemon.home, entra, f'sign_in="managed-identity"{named}'))
    sock = daemon.home / "cms.sock"
    daemon.start(**getattr(metadata, where))
    until(lambda: ask(sock, f"SMTP {SALES}\n".encode()), "a token")
    name, token = sasl(sock, SALES)
    log_in(entra, server, SALES, token)
    log_in(entra, server, *sasl(sock, JOBS))

    assert (SALES, ["https://outlook.office365.com"]) == (name, metadata.asked)
    assert (ASSIGNED_ID if assigned else OWN_ID) == entra.introspect(token)["appid"]
    assert 0 == entra.count("token")


def test_a_machine_without_an_identity(daemon: Daemon, entra: Entra) -> None:
    """When Azure has no identity for this machine, cms says who can fix that and does not ask for a sign-in."""
    metadata = Metadata(entra, [SALES])
    unknown = "11111111-2222-3333-4444-555555555555"
    daemon.configure(accounts(daemon.home, entra, f'sign_in="managed-identity", client_id="{unknown}"'))
    daemon.start(**metadata.vm)
    until(lambda: "refused" in daemon.cms("status").stdout, "the refusal")
    said = " ".join(daemon.cms("status").stdout.split())

    assert "this machine has no such managed identity (invalid_request)" in said
    assert "assign it in Azure (`az vm identity assign`)" in said
    assert "cms login" not in said


def test_json_has_no_secret(daemon: Daemon, entra: Entra) -> None:
    """What status says of an application names its way, and nothing that proves it."""
    register(entra, secret=APP_SECRET)
    secret = write_private(daemon.home / "secret", APP_SECRET)
    daemon.configure(accounts(daemon.home, entra, app(f'client_secret=File("{secret}")')))
    daemon.resume(daemon.home / "cms.sock", SALES)
    told = json.loads(daemon.cms("status", "--json").stdout)

    assert ["app", "app"] == [row["sign_in"] for row in told["accounts"]]
    assert APP_SECRET not in f"{told} {daemon.log}"
