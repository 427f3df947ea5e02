"""One socket serves accounts of Microsoft, Google and Fastmail, as cms knows them, and of a server of one's own.

The simulated Google and Fastmail are at the addresses that cms has for them, to which a proxy leads.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.daemon import Daemon, account_line, ask
from support.proxy import Proxy, proxies
from support.waiting import until

from cms.sandbox.entra import Entra
from cms.sandbox.faults import Fault
from cms.sandbox.habits import CLIENT_ID, CLIENT_SECRET, MAIL, Habits, google, strict
from cms.sandbox.host import Host
from cms.sandbox.issuer import Issuer
from cms.sandbox.person import Page
from cms_oauth.providers import PROVIDERS

AT_WORK, AT_GOOGLE, FAST, OWN = "me@work.test", "me@gmail.test", "me@fast.test", "me@own.test"


class Known(Issuer):
    """A simulated provider at the addresses of a row of cms's."""

    def __init__(self, name: str, habits: Habits, user: str) -> None:
        server = PROVIDERS[name].server
        assert server
        self.places = {
            str(urlsplit(getattr(server, each)).hostname)
            for each in server.__match_args__
            if each.endswith("_endpoint") and getattr(server, each)
        }
        self.names = (*Host.names, *self.places)  # type: ignore[misc]  # of this one's certificate
        self._authority = server.issuer
        super().__init__(habits, [user])

    @property
    def authority(self) -> str:
        return self._authority

    def sign_in(self, url: str, user: str, *, decision: str = "accept", follow: bool = True) -> Page:
        """Sign in with a browser that finds this server where the address leads."""
        here = urlsplit(url)._replace(netloc=f"localhost:{self.secure.port}").geturl()
        return super().sign_in(here, user, decision=decision, follow=follow)


def fastmail() -> Habits:
    """Return the habits of a strict server that is Fastmail."""
    server, habits = PROVIDERS["fastmail"].server, strict()
    assert server
    addresses = {
        "authorize": server.authorization_endpoint,
        "token": server.token_endpoint,
        "register": server.registration_endpoint,
        "revoke": server.revocation_endpoint,
    }
    habits.path, habits.documents, habits.resource = "", (), server.resource
    habits.paths = {name: urlsplit(each).path for name, each in addresses.items()}
    return habits


@dataclass
class Broker:
    """A person's cms, and where their accounts are."""

    daemon: Daemon
    places: dict[str, Host]
    proxy: Proxy

    @property
    def socket(self) -> Path:
        return self.daemon.home / "cms.sock"

    def configure(self) -> None:
        home, (entra, at_google, fast, own) = self.daemon.home, self.places.values()
        assert isinstance(entra, Entra)
        assert isinstance(own, Issuer)
        for each in (at_google, fast):
            assert isinstance(each, Known)
            self.proxy.places |= dict.fromkeys((f"{host}:443" for host in each.places), f"localhost:{each.secure.port}")
        client = {"installed": {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}}
        (home / "google-client.json").write_text(json.dumps(client))
        (home / "google-client.json").chmod(0o600)
        # Each sandbox has an authority of its own.
        (home / "ca.pem").write_text("".join(Path(each.ca_file).read_text() for each in self.places.values()))
        self.daemon.configure(
            f"""\
Vault(key=File("{self.daemon.key}"))
Tls(ca="{home / "ca.pem"}")
Proxy("{self.proxy.url}")
{account_line("work", AT_WORK, entra)}
google = GMail_Account("{AT_GOOGLE}", client=File("{home / "google-client.json"}"))
fast = OAuth2_Account("{FAST}", provider="fastmail")
own = OAuth2_Account("{OWN}", issuer="{own.issuer}", scopes=["{MAIL}", "openid", "email", "offline_access"])
CredentialServer("{self.socket}", accounts=[work, google, fast, own], protocols=["SMTP", "IMAP"])
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
    with (
        Entra([AT_WORK]) as entra,
        Known("google", google(), AT_GOOGLE) as at_google,
        Known("fastmail", fastmail(), FAST) as fast,
        Issuer(strict(), [OWN]) as own,
        proxies() as proxy,
    ):
        places = {AT_WORK: entra, AT_GOOGLE: at_google, FAST: fast, OWN: own}
        made = Broker(make_daemon(os.geteuid()), places, proxy)
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
    assert ["microsoft", "google", "fastmail", "oauth2"] == [row["provider"] for row in broker.rows().values()]
    for user in (FAST, OWN):
        asked = broker.places[user].asked("token", grant_type="refresh_token")
        assert len(asked) >= 2
        assert len(asked) == len({each.refresh for each in asked})
        assert {"dyn-"} == {each.client_id[:4] for each in asked}


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
    assert [None] * 3 == [broker.rows()[user]["problem"] for user in (AT_WORK, FAST, OWN)]
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


def held_by(broker: Broker) -> dict[str, str]:
    """Return the token that mail programs have of each account."""
    return {user: broker.token(user) for user in broker.places}


def alive(broker: Broker, tokens: dict[str, str]) -> dict[str, bool]:
    """Return what each provider says of these tokens."""
    return {user: broker.places[user].introspect(token)["active"] for user, token in tokens.items()}


def test_a_sign_in_ends_at_its_provider(broker: Broker) -> None:
    """The provider says that the token is dead. Without --yes nothing ends, and Microsoft's cannot: that is said."""
    where, tokens = ("-c", str(broker.daemon.config)), held_by(broker)
    asked, work = (
        broker.daemon.cms("logout", "--revoke", *words, *where) for words in ((AT_GOOGLE,), (AT_WORK, "--yes"))
    )
    before = alive(broker, tokens)
    done = broker.daemon.cms("logout", "--revoke", "--yes", AT_GOOGLE, *where)

    assert (1, True) == (asked.returncode, "nothing was changed" in asked.stderr)
    assert f"{AT_GOOGLE}: Google ends every sign-in of this user to the same Google project" in asked.stdout
    assert (1, True) == (work.returncode, "Microsoft lets no program end a sign-in by its token" in work.stderr)
    assert "revokeSignInSessions" in work.stderr
    assert all(before.values())
    assert 0 == done.returncode, done.stderr
    assert "it has ended at the provider too" in done.stdout
    assert [AT_GOOGLE] == [user for user, good in alive(broker, tokens).items() if not good]
    assert "sign-in-required" == broker.rows()[AT_GOOGLE]["state"]


def test_all_end_at_their_providers_without_a_daemon(broker: Broker) -> None:
    """One that cannot be reached keeps none from its turn, and the next time ends it."""
    where, tokens = ("-c", str(broker.daemon.config)), held_by(broker)
    broker.daemon.stop()
    broker.places[OWN].go_down()
    first = broker.daemon.cms("logout", "--revoke", "--all", "--yes", *where)
    broker.places[OWN].come_up()
    left = alive(broker, tokens)
    second = broker.daemon.cms("logout", "--revoke", "--yes", OWN, *where)

    assert (1, True) == (first.returncode, "ended at the provider: 2 of 3" in first.stderr), first.stdout
    assert f"{OWN} is still signed in: " in first.stdout
    assert f"`cms logout {OWN} --revoke`" in first.stdout
    assert f"{AT_WORK}: signed out" in first.stdout
    assert {AT_WORK: True, AT_GOOGLE: False, FAST: False, OWN: True} == left
    assert 0 == second.returncode, second.stderr
    assert not alive(broker, tokens)[OWN]
    assert not list((broker.daemon.home / "state" / "cms").glob("*.vault"))


def test_codes_for_whom_there_are_codes(broker: Broker) -> None:
    """One line for the account of a provider without them, with what to do instead; the others go on."""
    client = broker.daemon.home / "client.json"
    client.write_text(json.dumps({"installed": {"client_id": "1.apps", "client_secret": "s"}}))
    client.chmod(0o600)
    more = f'gmail = GMail_Account("me@gmail.com", client=File("{client}"))\n'
    text = broker.daemon.config.read_text().replace("CredentialServer(", f"{more}CredentialServer(")
    broker.daemon.configure(text.replace("fast, own]", "fast, own, gmail]"))
    assert 0 == broker.daemon.cms("reload").returncode
    assert 0 == broker.daemon.cms("logout", OWN).returncode
    own = broker.places[OWN]
    command = [broker.daemon.installation.command("cms"), "login", "--device", "--all"]
    environment = broker.daemon.environment
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        said = list[str]()
        for line in process.stdout:
            said.append(line.rstrip("\n"))
            if line.startswith(f"{OWN}  "):
                _, code, link = line.split()
                own.approve_device(code, OWN)
    refused = "me@gmail.com: Google signs no mail program in with a code on another device: "

    assert f"{own.device_url}?user_code={code}" == link
    assert f"{refused}use `cms login me@gmail.com --browser` or `cms login me@gmail.com --paste`" in said
    assert f"{OWN}: {OWN} is signed in" in "\n".join(said)
    assert ("1 of 2 signed in", 1) == (said[-1], process.returncode)
    assert OWN == broker.whose()[OWN]
