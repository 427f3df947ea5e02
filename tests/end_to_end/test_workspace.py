"""Every mailbox of a Google Workspace, by one service account: the real programs, and a provider that does as Google does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.at_google import AtGoogle, at_google
from support.daemon import Daemon, ask
from support.proofs import KeyPair
from support.waiting import until

from cms.core.mailboxes import NEW_AT_ONCE
from cms.sandbox.habits import GOOGLE_MAIL
from cms.sandbox.proving import ServiceAccount

DOMAIN, EVERY = "corp.test", "*@corp.test"
ANN, BEN, CAROL = (f"{name}@{DOMAIN}" for name in ("ann", "ben", "carol"))
ROBOT = "robot@project.iam.gserviceaccount.com"


@dataclass
class Relay:
    """A server's cms, for every mailbox of a domain."""

    daemon: Daemon
    google: AtGoogle

    @property
    def socket(self) -> str:
        return str(self.daemon.sockets / "cms.sock")

    def configure(self, more: str = "") -> None:
        self.daemon.configure(
            f"""\
Vault(key=File("{self.daemon.key}"))
{self.google.settings_lines}\
every = GMail_Account("{EVERY}", service_account=File("{self.daemon.home / "robot.json"}"){more})
CredentialServer("{self.socket}", accounts=[every], protocols=["SMTP", "IMAP"], users=[])
"""
        )

    def asked(self, user: str) -> dict[str, Any]:
        """Return what a mail program is told that asks for a mailbox."""
        return json.loads(ask(self.socket, f"IMAP,json {user}\n".encode()))  # type: ignore[no-any-return]  # it is an object

    def refusal(self, user: str) -> dict[str, Any]:
        """Return why a mail program gets no token. It comes again until that is known, as it is told to."""

        def known() -> dict[str, Any]:
            error: dict[str, Any] = self.asked(user).get("error") or {}
            return {} if "is being renewed" in error.get("message", "") else error

        return until(known, "a refusal")

    def whose(self, user: str) -> str:
        """Return whose token the provider says it is that a mail program gets."""
        return str(self.google.introspect(until(lambda: str(self.asked(user).get("token", "")), "a token"))["email"])

    def rows(self, *arguments: str) -> dict[str, Mapping[str, Any]]:
        said = json.loads(self.daemon.cms("status", "--json", *arguments).stdout)
        return {row["user"]: row for row in said["accounts"]}


@pytest.fixture
def relay(make_daemon: Callable[..., Daemon]) -> Iterator[Relay]:
    pair = KeyPair()
    with at_google([ANN, BEN, CAROL]) as google:
        google.trust(ServiceAccount(ROBOT, pair.public_key, (DOMAIN,), (GOOGLE_MAIL,)))
        made = Relay(make_daemon(os.geteuid()), google)
        file = made.daemon.home / "robot.json"
        key = {"type": "service_account", "client_email": ROBOT, "private_key_id": "1", "private_key": pair.private_key}
        file.write_text(json.dumps(key))
        file.chmod(0o600)
        made.configure()
        made.daemon.start()
        yield made


def test_each_mailbox_has_its_own_token(relay: Relay) -> None:
    """It is fetched when a program asks first; a restart serves all from the vault, and nothing is a stray there."""
    before, none = relay.rows(), relay.daemon.cms("refresh", CAROL)
    assert [ANN, BEN, ANN] == [relay.whose(each) for each in (ANN, BEN, "Ann@Corp.test")]
    assert 2 == relay.google.count("token")
    rows = relay.rows()
    assert f"{EVERY}, {ANN}, {BEN}: fresh" in relay.daemon.cms("refresh", EVERY).stdout
    assert 4 == relay.google.count("token")
    relay.daemon.restart()
    again = relay.whose(ANN)

    assert (["ok"], 0) == ([each["state"] for each in before.values()], before[EVERY]["mailboxes"])
    assert {EVERY: "ok", ANN: "ok", BEN: "ok"} == {user: row["state"] for user, row in rows.items()}
    assert (2, 1000, EVERY) == (rows[EVERY]["mailboxes"], rows[EVERY]["max_mailboxes"], rows[BEN]["part_of"])
    assert (ANN, 4, {EVERY, ANN}) == (again, relay.google.count("token"), {*relay.rows()})
    assert f"{EVERY}: no mailbox is open" in none.stdout
    assert "there is nothing to prune" in relay.daemon.cms("prune", "--yes").stdout
    assert [] == json.loads(relay.daemon.cms("status", "--json").stdout)["orphans"]
    assert 0 == relay.daemon.cms("status", "--check").returncode


def test_an_address_that_google_does_not_know(relay: Relay) -> None:
    """Programs are told, and asked for once; no other is kept from its place, and monitoring stays calm."""
    relay.configure(", max_mailboxes=2")
    assert 0 == relay.daemon.cms("reload").returncode
    assert ANN == relay.whose(ANN)
    until(lambda: "invalid_grant" in relay.refusal("no@corp.test")["message"], "Google's answer")
    refused = [relay.refusal("no@corp.test") for _ in range(3)]
    asked = relay.google.count("token")
    named = relay.rows("no@corp.test")
    calm = relay.daemon.cms("status", "--check")
    ben, full = relay.whose(BEN), relay.refusal(CAROL)

    assert {"unavailable"} == {each["code"] for each in refused}
    assert {True} == {each["retry_after"] > 0 for each in refused}
    assert "Google knows no such mailbox" in refused[0]["message"]
    assert 2 == asked
    assert "invalid_grant" == named["no@corp.test"]["problem"]["reason"]
    assert (0, BEN) == (calm.returncode, ben)
    assert ("unavailable", True) == (full["code"], "serves 2 mailboxes of corp.test already" in full["message"])
    assert 1 == relay.daemon.cms("status", "--check").returncode
    state = relay.daemon.home / "state"
    assert {each.stem for each in state.rglob("*.vault")} == locked(state)


def locked(state: Path) -> set[str]:
    """Return the sign-ins with a lock file."""
    return {each.stem for each in state.rglob("*.lock")} - {"daemon", "key"}


def test_made_up_addresses(relay: Relay) -> None:
    """Google is asked about so many and no more; a mailbox that is open goes on, and nothing is left on the disk."""
    assert ANN == relay.whose(ANN)
    with ThreadPoolExecutor(8) as threads:
        said = list(threads.map(lambda number: relay.refusal(f"no{number}@{DOMAIN}"), range(NEW_AT_ONCE + 20)))
    until(lambda: relay.google.count("token") > NEW_AT_ONCE, "the last question")
    wanted = {EVERY: "ok", ANN: "ok"}
    until(lambda: wanted == {user: row["state"] for user, row in relay.rows().items()}, "the others to be closed")
    again, state = relay.whose(ANN), relay.daemon.home / "state"
    until(lambda: locked(state) <= {each.stem for each in state.rglob("*.vault")}, "nothing to be left")

    assert {"unavailable"} == {each["code"] for each in said}
    # One more for each minute that this has taken.
    assert len([each for each in said if "too many mailboxes of corp.test" in each["message"]]) in range(15, 21)
    assert relay.google.count("token") in range(NEW_AT_ONCE + 1, NEW_AT_ONCE + 7)
    assert ANN == again


def test_all_stored_tokens_are_deleted(relay: Relay) -> None:
    """With `cms logout --all`, also those of mailboxes that are not open."""
    assert [ANN, BEN] == [relay.whose(each) for each in (ANN, BEN)]
    relay.daemon.restart()
    assert ANN == relay.whose(ANN)
    state = relay.daemon.home / "state"
    before = len([*state.rglob("*.vault")])

    assert 0 == relay.daemon.cms("logout", "--all", "--yes").returncode
    assert (2, []) == (before, [*state.rglob("*.vault")])
    assert (
        "needs no sign-in: a service account gets its tokens by itself (service_account=)"
        in relay.daemon.cms("login", ANN).stdout
    )


def test_check_names_who_may_ask(relay: Relay) -> None:
    """For every mailbox, on a line of its own; and how many mailboxes are served at a time."""
    said = relay.daemon.cms("check", "-c", str(relay.daemon.config)).stdout

    assert f"can ask for every mailbox of {DOMAIN}:" in said
    assert "; 1000 mailboxes at a time; application: its service account" in said
