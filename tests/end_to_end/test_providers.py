"""Accounts of several providers in one configuration, behind one socket."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from support.daemon import Daemon, account_line, ask, settings_lines
from support.proofs import write_private

from cms.sandbox.entra import Entra
from cms.sandbox.habits import google, strict
from cms.sandbox.host import Host
from cms.sandbox.issuer import CLIENT_ID, CLIENT_SECRET, Issuer

ME, ANN, BOB = "me@domain.com", "ann@gmail.example", "bob@corp.example"


def browsed(provider: Host, user: str, url: str) -> str:
    """Return the address that a person's browser ends at."""
    return provider.sign_in(url, user, follow=False).url


def test_one_socket_for_three_providers(daemon: Daemon, entra: Entra) -> None:
    """Microsoft, one that does as Google, and a strict one that registers cms: each person signs in, and has a token.

    A restart keeps all three; the token of each is good where it was made, and `cms status` names the provider.
    """
    sock = daemon.home / "cms.sock"
    entra.add_user(ME)
    with Issuer(google(), [ANN]) as likes_google, Issuer(strict(), [BOB]) as careful:
        at = {ME: entra, ANN: likes_google, BOB: careful}
        authorities = daemon.home / "authorities.pem"
        authorities.write_text("".join(Path(each.ca_file).read_text() for each in at.values()))
        secret = write_private(daemon.home / "secret", CLIENT_SECRET)
        daemon.configure(
            settings_lines(daemon.home, entra).replace(entra.ca_file, str(authorities))
            + account_line("me", ME, entra)
            + f'ann = OAuth2_Account("{ANN}", issuer="{likes_google.issuer}", client_id="{CLIENT_ID}",'
            f' client_secret=File("{secret}"), scopes=["openid", "email", "{likes_google.habits.mail}"], prompt="consent",'
            ' parameters={"access_type": "offline"})\n'
            f'bob = OAuth2_Account("{BOB}", issuer="{careful.issuer}", scopes=["{careful.habits.mail}", "offline_access"])\n'
            f'CredentialServer("{sock}", accounts=[me, ann, bob], protocols=["SMTP", "IMAP"])\n'
        )
        daemon.start()
        for user, provider in at.items():
            daemon.log_in(user, partial(browsed, provider, user))
        daemon.restart()
        served = {user: ask(sock, f"IMAP,token {user}\n".encode()).decode() for user in at}

        assert [True] * 3 == [at[user].introspect(token)["active"] for user, token in served.items()]
        rows = json.loads(daemon.cms("status", "--json").stdout)["accounts"]
        assert [("microsoft", "ok"), ("oauth2", "ok"), ("oauth2", "ok")] == [
            (row["provider"], row["state"]) for row in rows
        ]
