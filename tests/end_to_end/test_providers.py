"""Accounts of several providers behind one socket: Microsoft, one that behaves as Google does, and a strict server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon, account_line, ask
from support.waiting import until

from cms.sandbox.entra import Entra
from cms.sandbox.faults import Fault
from cms.sandbox.habits import CLIENT_ID, CLIENT_SECRET, GOOGLE_MAIL, MAIL, google, strict
from cms.sandbox.host import Host
from cms.sandbox.issuer import Issuer

AT_WORK, AT_GOOGLE, OWN = "me@work.test", "me@gmail.test", "me@own.test"


@dataclass
class Broker:
    """A person's cms, and where their accounts are."""

    daemon: Daemon
    places: dict[str, Host]

    @property
    def socket(self) -> Path:
        return self.daemon.home / "cms.sock"

    def configure(self) -> None:
        home, (entra, at_google, own) = self.daemon.home, self.places.values()
        assert isinstance(entra, Entra)
        assert isinstance(at_google, Issuer)
        assert isinstance(own, Issuer)
        (home / "google-secret").write_text(CLIENT_SECRET)
        (home / "google-secret").chmod(0o600)
        # Each sandbox has an authority of its own.
        (home / "ca.pem").write_text("".join(Path(each.ca_file).read_text() for each in self.places.values()))
        self.daemon.configure(
            f"""\
Vault(key=File("{self.daemon.key}"))
Tls(ca="{home / "ca.pem"}")
{account_line("work", AT_WORK, entra)}
google = OAuth2_Account("{AT_GOOGLE}", issuer="{at_google.issuer}", client_id="{CLIENT_ID}",
    client_secret=File("{home / "google-secret"}"), scopes=["{GOOGLE_MAIL}", "openid", "email"], username_claim="email",
    prompt="consent", parameters={{"access_type": "offline"}})
own = OAuth2_Account("{OWN}", issuer="{own.issuer}", scopes=["{MAIL}", "openid", "email", "offline_access"])
CredentialServer("{self.socket}", accounts=[work, google, own], protocols=["SMTP", "IMAP"])
"""
        )

    def token(self, user: str, protocol: str = "IMAP") -> str:
        return ask(self.socket, f"{protocol},token {user}\n".encode()).decode()

    def whose(self) -> dict[str, str]:
        """Return whose token each provider says it is that a mail program gets."""
        return {
            user: str(place.introspect(until(lambda user=user: self.token(user), "a token")).get("email"))  # type: ignore[misc]  # mypy knows no default of a lambda
            for user, place in self.places.items()
        }

    def rows(self) -> dict[str, dict[str, Any]]:
        said = json.loads(self.daemon.cms("status", "--json").stdout)
        return {row["user"]: row for row in said["accounts"]}

    def sign_in(self) -> None:
        for user, place in self.places.items():
            self.daemon.sign_in(user, place)


@pytest.fixture
def broker(make_daemon: Callable[..., Daemon]) -> Iterator[Broker]:
    with Entra([AT_WORK]) as entra, Issuer(google(), [AT_GOOGLE]) as at_google, Issuer(strict(), [OWN]) as own:
        made = Broker(make_daemon(os.geteuid()), {AT_WORK: entra, AT_GOOGLE: at_google, OWN: own})
        made.configure()
        made.daemon.start()
        made.sign_in()
        yield made


def test_each_account_has_its_own_provider(broker: Broker) -> None:
    """All are served from one socket, through renewals and a restart; the strict server sees no token twice."""
    users = {user: user for user in broker.places}
    first = {user: broker.token(user) for user in users}
    assert users == broker.whose()
    for user in users:
        assert 0 == broker.daemon.cms("refresh", user).returncode
    assert users == broker.whose()
    assert not set(first.values()) & {broker.token(user) for user in users}
    broker.daemon.stop()
    broker.daemon.forget_tokens()
    broker.daemon.start()

    assert users == broker.whose()
    assert ["microsoft", "oauth2", "oauth2"] == [row["provider"] for row in broker.rows().values()]
    own = broker.places[OWN].asked("token", grant_type="refresh_token")
    assert len(own) >= 2
    assert len(own) == len({each.refresh for each in own})
    assert {"dyn-"} == {each.client_id[:4] for each in own}


def test_trouble_of_one_is_no_trouble_of_the_others(broker: Broker) -> None:
    """A refusal has the provider's own reason and its own next move."""
    at_google = broker.places[AT_GOOGLE]
    assert isinstance(at_google, Issuer)
    at_google.revoke(AT_GOOGLE, subtype="invalid_rapt")
    broker.daemon.cms("refresh", AT_GOOGLE)
    until(lambda: broker.rows()[AT_GOOGLE]["problem"], "the refusal")
    row = broker.rows()[AT_GOOGLE]

    assert "invalid_rapt" == row["problem"]["reason"]
    assert f"cms login {AT_GOOGLE}" in row["next_move"]
    assert [None, None] == [broker.rows()[user]["problem"] for user in (AT_WORK, OWN)]
    broker.daemon.sign_in(AT_GOOGLE, at_google)
    assert {user: user for user in broker.places} == broker.whose()


def test_a_lost_answer_of_a_strict_server(broker: Broker) -> None:
    """It is asked for once more at once; the server takes that for theft, and the person is told what happened."""
    own = broker.places[OWN]
    own.faults.add(Fault("reset", after=True))
    broker.daemon.cms("refresh", OWN)
    problem = until(lambda: broker.rows()[OWN]["problem"], "the refusal")

    assert "was lost after cms had redeemed it" in problem["message"]
    broker.daemon.sign_in(OWN, own)
    assert {user: user for user in broker.places} == broker.whose()
