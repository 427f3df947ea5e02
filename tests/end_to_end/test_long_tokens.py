"""A token that exim, msmtp and neomutt have no room for: told where its owner looks, and served all the same."""

from __future__ import annotations

from collections.abc import Callable

from support.daemon import Daemon, account_line, ask, settings_lines
from support.reachable import ALICE
from support.waiting import until

from cms.core.preflight import LONG_TOKEN
from cms.sandbox.entra import Entra

ME = "me@domain.com"
SIZE = 3500


def test_a_long_token_is_told_once_in_the_log_and_shown_while_it_is_held(
    make_daemon: Callable[..., Daemon], entra: Entra
) -> None:
    """In `cms status` and `cms check` with its size; no more after a token of the usual length has come."""
    entra.add_user(ME)
    broker = make_daemon(ALICE)
    broker.configure(
        settings_lines(broker.home, entra)
        + account_line("account", ME, entra)
        + f'CredentialServer("{broker.home}/cms.sock", accounts=[account])\n'
    )
    broker.start()
    usual, entra.token_size = entra.token_size, SIZE
    broker.sign_in(ME, entra)
    broker.cms("refresh")
    token = ask(broker.home / "cms.sock", f"SMTP,token {ME}\n".encode())
    said = f"the token has {len(token)} bytes, and exim, msmtp and neomutt fail with more than about {LONG_TOKEN}"

    assert abs(len(token) - SIZE) < 10
    assert 1 == broker.log.count("exim, msmtp and neomutt fail")
    assert said in " ".join(broker.cms("status").stdout.split())
    assert f"warning: {ME}: {said}" in broker.cms("check", "-c", str(broker.config)).stderr

    entra.token_size = usual
    refreshed = broker.cms("refresh")
    until(lambda: "neomutt" not in broker.cms("status").stdout, "the end of the warning")

    assert (0, "") == (refreshed.returncode, broker.cms("check", "-c", str(broker.config)).stderr)
