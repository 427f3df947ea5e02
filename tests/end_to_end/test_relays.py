"""docs/relays.md: a relay that takes mail from the network sends it on with tokens, and keeps what has none.

Debian's own exim and Postfix, each with the files of contrib/relay/ put where the page says.
"""

from __future__ import annotations

import pwd
import re
import shutil
import smtplib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count

import pytest
from support import evidence
from support.contrib import ROOT, replaced
from support.daemon import Daemon, account_line, daemons, settings_lines
from support.fragments import blocks
from support.machine import EXIM_USER, Machine
from support.ports import free_port, listens
from support.postfix import LOG_FILE, POSTFIX_UID, Postfix, add_plugin
from support.reachable import Installation, bare_environment, open_folder
from support.servers import MailServers
from support.waiting import PATIENCE, until

SALES, JOBS, RELAY = "sales@domain.com", "jobs@domain.com", "relay@domain.com"
# A host of the network that is no account: the default sends its mail.
PRINTER = "printer@domain.com"
READER = "reader@domain.com"

# A host that may send, and one that may not. Linux has all of 127.0.0.0/8.
MAY, MAY_NOT = "127.0.0.2", "127.0.0.9"

# The daemon's uid.
CMS = 64010

PAGE = (ROOT / "docs" / "relays.md").read_text()
_numbers = count()


def shown(name: str) -> str:
    """Return the block of the page that is marked with `test: NAME`."""
    (found,) = (block.text for block in blocks(PAGE) if block.mark == f"test: {name}")
    return found


@dataclass
class Relay:
    """A relay that listens on `port`; `run_queue` has it try again what waits."""

    port: int
    queue: Callable[[], int]
    run_queue: Callable[[], None]
    log: Callable[[], str]

    def take(self, sender: str, to: str = READER, *, host: str = MAY) -> str:
        """Hand it a message over the network, as a host of it; return the subject, which no other message has."""
        subject = f"relayed {next(_numbers)}."
        with smtplib.SMTP("127.0.0.1", self.port, source_address=(host, 0), timeout=PATIENCE) as client:
            client.sendmail(sender, to, f"From: {sender}\nTo: {to}\nSubject: {subject}\n\nhello\n")
        return subject


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
def exim(broker: Daemon, servers: MailServers, *blocks_of_page: str, split: bool) -> Iterator[Relay]:
    """Debian's exim as a relay, with the kit added as these blocks of the page say."""
    with open_folder("relay") as folder:
        machine = Machine(folder, {})
        etc = folder / "etc"
        shutil.copytree("/etc/exim4", etc, dirs_exist_ok=True, ignore=shutil.ignore_patterns("exim4.conf"))
        # What `dpkg-reconfigure exim4-config` writes for a machine that sends its mail through another.
        settings = {
            "eximconfig_configtype": "smarthost",
            "other_hostnames": "",
            "local_interfaces": "127.0.0.1",
            "relay_nets": MAY,
            "smarthost": "old.domain.com",
            "use_split_config": "true" if split else "false",
        }
        text = (etc / "update-exim4.conf.conf").read_text()
        for name, value in settings.items():
            text = re.sub(f"(?m)^dc_{name}=.*$", f"dc_{name}='{value}'", text)
        (etc / "update-exim4.conf.conf").write_text(text)
        for name in blocks_of_page:
            done = machine.run("sh", "-ec", f"cd {ROOT}\n{shown(name)}")
            assert done.returncode == 0, done.stderr
        macros = etc / ("conf.d/main/000_cms" if split else "exim4.conf.localmacros")
        adjusted = macros.read_text()
        for name, value in {
            "SMARTHOST": "localhost",
            "PORT": str(servers.submission),
            "AUTHORITIES": servers.ca_file,
            "SOCKET": str(broker.sockets / "exim.sock"),
        }.items():
            adjusted = re.sub(f"(?m)^CMS_{name} = .*$", f"CMS_{name} = {value}", adjusted)
        macros.write_text(adjusted)
        taken = machine.run("sh", "-ec", shown("exim-take"))
        assert taken.returncode == 0, taken.stderr
        port = free_port()
        command = machine.argv(machine.exim, "-bdf", "-oX", f"[127.0.0.1]:{port}")
        with subprocess.Popen(command, env=bare_environment()) as process:
            try:
                until(lambda: listens(port), "exim's port")
                yield Relay(port, lambda: len(machine.queue), machine.run_queue, machine.log)
            finally:
                process.terminate()
                for name in ("main", "reject", "panic"):
                    evidence.keep("exim", machine.log(name))


@contextmanager
def postfix(broker: Daemon, servers: MailServers) -> Iterator[Relay]:
    """Debian's Postfix as a relay, with the kit appended as the page says."""
    with open_folder("relay") as folder:
        machine = Postfix(folder, {})
        add_plugin(machine)
        port = free_port()
        own = f"""
compatibility_level = 3.6
inet_interfaces = 127.0.0.1
mydestination = $myhostname
mynetworks = {MAY}
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_host_lookup = native
maillog_file = {LOG_FILE}
"""
        master = machine.master_cf.replace("\nsmtp      inet", f"\n127.0.0.1:{port} inet", 1)
        assert str(port) in master
        machine.configure(own, master)
        done = machine.run("sh", "-ec", f"cd {ROOT}\n{shown('postfix-install')}")
        assert done.returncode == 0, done.stderr
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
    "exim, split": lambda broker, servers: exim(broker, servers, "exim-split", split=True),
    "exim, split, cdb": lambda broker, servers: exim(broker, servers, "exim-split", "exim-cdb", split=True),
    "exim, single": lambda broker, servers: exim(broker, servers, "exim-single", split=False),
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


def test_exims_user_is_the_pages() -> None:
    """The page names the user whom Debian's exim runs as."""
    assert pwd.getpwnam(EXIM_USER)
    assert f'users=["{EXIM_USER}"]' in shown("exim-configuration")
