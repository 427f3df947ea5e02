"""Mail and Graph from one sign-in: two tokens of two audiences, and what fails for one leaves the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon, account_line, ask, settings_lines
from support.reachable import ALICE
from support.waiting import until

from cms.sandbox.entra import Entra

ME = "me@domain.com"
GRAPH = "https://graph.microsoft.com/Mail.Send"
PROTOCOL = f'Protocol("GRAPH", ["{GRAPH}"])'


class Broker:
    """A person's cms."""

    def __init__(self, daemon: Daemon, entra: Entra) -> None:
        self.daemon = daemon
        self.entra = entra
        self.socket = daemon.home / "cms.sock"
        self.file = daemon.home / "graph-token"

    def configure(self, *more: str) -> None:
        """Serve SMTP and IMAP, and these."""
        protocols = ", ".join(['"SMTP"', '"IMAP"', *more])
        file = f'TokenFile("{self.file}", account, {more[0]})\n' if more else ""
        self.daemon.configure(
            settings_lines(self.daemon.home, self.entra)
            + account_line("account", ME, self.entra)
            + f'CredentialServer("{self.socket}", accounts=[account], protocols=[{protocols}])\n'
            + file
        )

    def token(self, protocol: str) -> str:
        """Return the token that a protocol's clients get, "" for none."""
        return ask(self.socket, f"{protocol},token {ME}\n".encode()).decode()

    def refusal(self, protocol: str) -> str:
        """Return the code of the refusal that a protocol's clients get."""
        said = json.loads(ask(self.socket, f"{protocol},json {ME}\n".encode()))
        return str(said["error"]["code"])

    def about(self, protocol: str) -> dict[str, Any]:
        """Return what the sandbox says of a protocol's token."""
        return self.entra.introspect(self.token(protocol))

    def rows(self) -> dict[str, str]:
        """Return the state of each token by its protocols."""
        status = json.loads(self.daemon.cms("status", "--json").stdout)
        return {"+".join(row["protocols"]): row["state"] for row in status["accounts"]}


@pytest.fixture
def broker(make_daemon: Callable[..., Daemon], entra: Entra) -> Broker:
    """Not started yet."""
    entra.add_user(ME)
    return Broker(make_daemon(ALICE), entra)


def content(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_two_resources_are_one_sign_in(broker: Broker, entra: Entra) -> None:
    """Each protocol's token is for its own audience alone, in one request each; a person signs in once."""
    broker.configure(PROTOCOL)
    broker.daemon.start_unknown()
    broker.daemon.sign_in(ME, entra)
    until(lambda: broker.token("GRAPH"), "a token for Graph")
    mail, graph = broker.about("SMTP"), broker.about("GRAPH")

    assert ("https://outlook.office.com", "https://graph.microsoft.com") == (mail["aud"], graph["aud"])
    assert ({"SMTP.Send", "IMAP.AccessAsUser.All"}, "Mail.Send") == (set(mail["scp"].split()), graph["scp"])
    assert broker.token("SMTP") == broker.token("IMAP") != broker.token("GRAPH")
    assert 1 == entra.count("token", grant_type="authorization_code")
    assert 1 == entra.count("token", grant_type="refresh_token")
    assert {"SMTP+IMAP": "ok", "GRAPH": "ok"} == broker.rows()
    assert broker.token("GRAPH") == until(lambda: content(broker.file), "the token file")


def test_cms_oauth_knows_the_protocol(broker: Broker, entra: Entra) -> None:
    """`--proto=GRAPH` prints the token for the other resource."""
    broker.configure(PROTOCOL)
    broker.daemon.start_unknown()
    broker.daemon.sign_in(ME, entra)
    token = until(lambda: broker.token("GRAPH"), "a token for Graph")
    printed = broker.daemon.token(broker.socket, ME, "--proto=GRAPH", "--output=token", "--no_newline")

    assert token == printed.stdout


def test_a_protocol_that_comes_later_needs_its_own_consent(broker: Broker, entra: Entra) -> None:
    """AADSTS65001 for the new scopes leaves mail its token; the next sign-in consents to both."""
    broker.configure()
    broker.daemon.start_unknown()
    broker.daemon.sign_in(ME, entra)
    mail = broker.token("SMTP")
    broker.configure(PROTOCOL)
    reloaded = broker.daemon.cms("reload")
    until(lambda: broker.rows().get("GRAPH") == "sign-in-required", "the refusal of the new scopes")

    assert 0 == reloaded.returncode
    assert "AADSTS65001" in broker.daemon.cms("status").stdout
    assert ("", "sign-in-required") == (broker.token("GRAPH"), broker.refusal("GRAPH"))
    assert ("ok", mail) == (broker.rows()["SMTP+IMAP"], broker.token("SMTP"))

    broker.daemon.sign_in(ME, entra)
    until(lambda: broker.token("GRAPH"), "a token for Graph")

    assert {"SMTP+IMAP": "ok", "GRAPH": "ok"} == broker.rows()


def test_consent_that_is_withdrawn_for_one_leaves_the_other(broker: Broker, entra: Entra) -> None:
    """Consent to one scope set can be withdrawn, first or second in line, without effect on the other."""
    broker.configure(PROTOCOL)
    broker.daemon.start_unknown()
    broker.daemon.sign_in(ME, entra)
    before = until(lambda: broker.token("GRAPH"), "a token for Graph")
    entra.withdraw_consent(ME, "https://outlook.office.com/SMTP.Send")
    refreshed = broker.daemon.cms("refresh")
    after = broker.token("GRAPH")

    assert refreshed.returncode != 0
    assert (True, True) == (bool(after), before != after)
    assert ("sign-in-required", "ok") == (broker.rows()["SMTP+IMAP"], broker.rows()["GRAPH"])


def test_a_protocol_that_goes_takes_its_token_along(broker: Broker, entra: Entra) -> None:
    """Not served any more, and its file is gone; mail goes on with the token that it had."""
    broker.configure(PROTOCOL)
    broker.daemon.start_unknown()
    broker.daemon.sign_in(ME, entra)
    until(lambda: content(broker.file), "the token file")
    mail = broker.token("SMTP")
    broker.configure()
    broker.daemon.cms("reload")
    until(lambda: not broker.file.exists(), "the end of the token file")

    assert ("", "unknown-protocol", mail) == (broker.token("GRAPH"), broker.refusal("GRAPH"), broker.token("SMTP"))
