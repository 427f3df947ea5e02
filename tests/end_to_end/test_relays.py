"""docs/relays.md: a relay that takes mail from the network sends it on with tokens, and keeps what has none.

Debian's own exim and Postfix, each with the files of contrib/relay/ put where the page says.
"""

from __future__ import annotations

import pwd
import re
import smtplib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from support import evidence
from support.contrib import ROOT, replaced
from support.daemon import Daemon, account_line, daemons, settings_lines
from support.machine import EXIM_USER
from support.ports import free_port, listens
from support.postfix import LOG_FILE, POSTFIX_UID, Postfix, add_plugin
from support.reachable import Installation, open_folder
from support.relay import MAY, READER, Relay, exim, shown
from support.servers import MailServers
from support.waiting import PATIENCE, until

SALES, JOBS, RELAY = "sales@domain.com", "jobs@domain.com", "relay@domain.com"
# A host of the network that is no account: the default sends its mail.
PRINTER = "printer@domain.com"

# A domain of the network, whose server wants neither TLS nor a login.
INSIDE = "internal.domain.com"

# A host that may not send.
MAY_NOT = "127.0.0.9"

# The daemon's uid.
CMS = 64010


@pytest.fixture(scope="module")
def broker(installation: Installation, servers: MailServers) -> Iterator[Daemon]:
    """The accounts as the page has them; SALES and RELAY are signed in."""
    for user in (SALES, JOBS, RELAY, READER):
        servers.add_user(user)
    with daemons(installation) as make:
        broker = make(CMS)
        lines = {f'{name} = Office365_Account(user="{name}@domain.com")\n': "" for name in ("sales", "jobs", "relay")}
        sockets = {"/run/cms": str(broker.sockets)}
        broker.configure(
            settings_lines(broker.home, servers.entra)
            + "".join(account_line(user.partition("@")[0], user, servers.entra) for user in (SALES, JOBS, RELAY))
            + replaced(shown("exim-configuration"), **lines, **sockets)
            + replaced(shown("postfix-configuration"), **lines, **sockets, **{'"postfix"': f'"{POSTFIX_UID}"'})
        )
        broker.start()
        for user in (SALES, RELAY):
            broker.sign_in(user, servers.entra)
        yield broker


@contextmanager
def postfix(broker: Daemon, servers: MailServers, inside: int = 25) -> Iterator[Relay]:
    """Debian's Postfix as a relay, with the kit appended as the page says; `inside` is the port of INSIDE's server."""
    with open_folder("relay") as folder:
        machine = Postfix(folder, {})
        add_plugin(machine)
        port = free_port()
        own = f"""
compatibility_level = 3.6
inet_interfaces = 127.0.0.1
mydestination = $myhostname
mynetworks = {MAY}
relayhost =
smtp_tls_security_level = may
transport_maps = inline:{{ {{ {INSIDE} = direct:[127.0.0.1]:{inside} }} }}
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_host_lookup = native
maillog_file = {LOG_FILE}
"""
        master = machine.master_cf.replace("\nsmtp      inet", f"\n127.0.0.1:{port} inet", 1)
        assert str(port) in master
        machine.configure(own, master)
        done = machine.run("sh", "-ec", f"cd {ROOT}\n{shown('postfix-install')}{shown('postfix-direct')}")
        assert (0, "") == (done.returncode, done.stderr)
        # The page promises to print what the kit replaces.
        assert "relayhost =\nsmtp_tls_security_level = may\n" == done.stdout
        main = (machine.etc / "main.cf").read_text()
        for name, value in {
            "relayhost": f"[localhost]:{servers.submission}",
            "smtp_tls_CAfile": servers.ca_file,
            "cms_table": f"proxy:socketmap:unix:{broker.sockets / 'postfix.sock'}:cms",
            "queue_run_delay": "1s",
            "minimal_backoff_time": "2s",
            "maximal_backoff_time": "2s",
        }.items():
            main = re.sub(f"(?m)^{name} = .*$", f"{name} = {value}", main)
        (machine.etc / "main.cf").write_text(main)
        machine.postfix("start")
        try:
            until(lambda: listens(port), "Postfix's port")
            yield Relay(port, lambda: len(machine.queue), lambda: None, machine.log)
        finally:
            machine.postfix("stop")
            evidence.keep("postfix", machine.log())


Started = Callable[[Daemon, MailServers], AbstractContextManager[Relay]]
RELAYS: dict[str, Started] = {
    "exim, split": lambda broker, servers: exim(broker.sockets / "exim.sock", servers, "exim-split", split=True),
    "exim, split, cdb": lambda broker, servers: exim(
        broker.sockets / "exim.sock", servers, "exim-split", "exim-cdb", split=True
    ),
    "exim, single": lambda broker, servers: exim(broker.sockets / "exim.sock", servers, "exim-single", split=False),
    "Postfix": postfix,
}


@pytest.mark.parametrize("kind", RELAYS)
def test_a_relay_sends_with_each_senders_account(kind: str, broker: Daemon, servers: MailServers) -> None:
    """Three senders and a default; what has no token waits, and nothing bounces; a stranger's host is refused."""
    with RELAYS[kind](broker, servers) as relay, servers.sending_as(RELAY, PRINTER):
        with pytest.raises(smtplib.SMTPRecipientsRefused, match=r"(?i)relay|denied"):
            relay.take(SALES, host=MAY_NOT)
        waits, by_sales, by_default = relay.take(JOBS), relay.take(SALES), relay.take(PRINTER)

        def only_waits(number: int) -> bool:
            # exim tries a server again a second after a login that failed there, when it runs its queue.
            relay.run_queue()
            return number == relay.queue()

        until(lambda: only_waits(1), "the mail of the others to go out")
        assert f"Return-path: <{SALES}>" in servers.wait_for_mail(READER, by_sales)
        assert f"Return-path: <{PRINTER}>" in servers.wait_for_mail(READER, by_default)
        assert [] == servers.mail_of(JOBS)

        broker.sign_in(JOBS, servers.entra)
        until(lambda: only_waits(0), "the queue to empty")
        assert f"Return-path: <{JOBS}>" in servers.wait_for_mail(READER, waits)
        logins = re.findall(r"<= (\S+) .* A=xoauth2:(\S+)", servers.log())
        assert {(SALES, SALES), (PRINTER, RELAY), (JOBS, JOBS)} <= set(logins)

        # A recipient whom the server does not take: the sender hears of it, with the sender's own account.
        refused = relay.take(SALES, "nobody@domain.com")
        assert refused in servers.wait_for_mail(SALES, refused)
    done = broker.cms("logout", "-c", str(broker.config), JOBS)
    assert done.returncode == 0, done.stderr
    servers.add_user(SALES)


class Inside:
    """The server of INSIDE: keeps what it is sent."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bool]] = []

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - its name there
        """Take a message."""
        self.got.append((str(envelope.mail_from), bool(session.authenticated)))
        return "250 OK"


def test_a_server_of_the_network_waits_for_no_token(broker: Daemon, servers: MailServers) -> None:
    """What transport_maps sends there goes out at once, in clear and without a login, whoever has a token."""
    inside, port = Inside(), free_port()
    server = Controller(inside, hostname="127.0.0.1", port=port, ready_timeout=PATIENCE)
    server.start()
    try:
        with postfix(broker, servers, port) as relay:
            for sender in (JOBS, SALES):
                relay.take(sender, f"ann@{INSIDE}")
            until(lambda: len(inside.got) == 2, "both messages")
    finally:
        server.stop()
    assert {(JOBS, False), (SALES, False)} == set(inside.got)


def test_exims_user_is_the_pages() -> None:
    """The page names the user whom Debian's exim runs as."""
    assert pwd.getpwnam(EXIM_USER)
    assert f'users=["{EXIM_USER}"]' in shown("exim-configuration")
