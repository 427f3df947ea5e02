"""Real Dovecot and real exim refuse a login: `cms-oauth --test-...` says that this is not Exchange, and what else is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.scripted import Daemon
from support.servers import MailServers

from cms_oauth import main, wire

USER = "verdict@domain.com"
OTHER = "verdict-other@domain.com"
PORTS = {"smtp": "submission", "imap": "imap", "pop": "pop"}
SOFTWARE = {"smtp": "exim", "imap": "Dovecot", "pop": "Dovecot"}


@pytest.fixture(autouse=True)
def trusted(servers: MailServers, monkeypatch: pytest.MonkeyPatch) -> None:
    servers.add_user(USER)
    servers.add_user(OTHER)
    monkeypatch.setenv("SSL_CERT_FILE", str(servers.ca_file))


def refused_login(
    test: str,
    servers: MailServers,
    token: str,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> tuple[int, dict[str, Any]]:
    """Test a login with this token; return the exit status and what was said as data."""
    place = f"localhost:{getattr(servers, PORTS[test])}"
    with Daemon(folder / "cms.sock", wire.render("xoauth2", USER, token)) as daemon:
        status = main.run([f"--cms_sock={daemon.path}", f"--test-{test}={place}", "--output=json"])
    return status, json.loads(capfd.readouterr().out)


@pytest.mark.parametrize("test", PORTS)
def test_an_expired_token(test: str, servers: MailServers, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By its own word it is: that comes first, and whose server it is second."""
    status, said = refused_login(test, servers, servers.entra.issue(USER, life=-60), tmp_path, capfd)

    assert 77 == status
    assert ["token-expired", "not-exchange"] == [each["name"] for each in said["verdicts"]][:2]


@pytest.mark.parametrize("test", PORTS)
def test_another_users_token(
    test: str, servers: MailServers, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The verdict names the server's software and does not send the person to an administrator of Exchange."""
    status, said = refused_login(test, servers, servers.entra.issue(OTHER), tmp_path, capfd)
    verdicts = said["verdicts"]

    assert 77 == status
    assert "not-exchange" == verdicts[0]["name"]
    assert SOFTWARE[test] in verdicts[0]["cause"]
    assert {"token-user", "no-full-access"} & {each["name"] for each in verdicts}
    assert not any("Set-CASMailbox" in step for each in verdicts for step in each["steps"])


@pytest.mark.parametrize("test", PORTS)
def test_a_revoked_token(test: str, servers: MailServers, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing in the token tells; the server's word for it does, where it has one."""
    token = servers.entra.issue(USER)
    servers.entra.directory.revoke_access(USER)
    status, said = refused_login(test, servers, token, tmp_path, capfd)

    assert 77 == status
    assert "not-exchange" == said["verdicts"][0]["name"]
    assert said["evidence"]["greeting"]
