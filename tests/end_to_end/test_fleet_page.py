"""docs/fleet.md, done as it says: three relays and a standby from nothing to mail, and back to one host.

A PostgreSQL server with TLS and passwords, a daemon for each host, and Debian's own exim on each relay. Two of the relays have
no key of sign-ins, and one account has no token.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from support import evidence
from support.contrib import ROOT, replaced
from support.daemon import Daemon, account_line, ask, daemons
from support.fragments import marked
from support.postgres import Cluster
from support.reachable import Installation, bare_environment, become, open_folder
from support.relay import READER, exim
from support.servers import MailServers
from support.waiting import PATIENCE, until

PAGE = (ROOT / "docs" / "fleet.md").read_text()

SALES, JOBS = "sales@domain.com", "jobs@domain.com"

# Who redeems, as the page has it, and who serves only; each relay with the loopback address that it has here.
REDEEM = ("relay1", "standby")
RELAYS = {"relay1": "127.0.0.11", "relay2": "127.0.0.12", "relay3": "127.0.0.13"}
HOSTS = (*RELAYS, "standby")

# The user of the service.
CMS = 64010


def shown(name: str) -> str:
    """Return the block of the page that is marked with `test: NAME`."""
    return marked(PAGE, name)


@dataclass
class Host:
    """A host of the fleet, with its cms."""

    name: str
    daemon: Daemon

    @property
    def socket(self) -> Path:
        return self.daemon.sockets / "exim.sock"

    def run(self, block: str, folder: Path, **words: str) -> str:
        """Run a block of the page here; return what it prints."""
        cms = shlex.join([*become(CMS, [self.daemon.installation.command("cms")]), "-c", str(self.daemon.config)])
        text = replaced(shown(block), **{"sudo -u cms cms": cms}, **words)
        return _run(text, folder, self.daemon.environment)

    def token(self, user: str = SALES) -> str:
        """Return the token that a program gets here now, "" for none."""
        return ask(self.socket, f"SMTP,token {user}".encode()).decode()

    def cms(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `cms` with this host's configuration."""
        return self.daemon.cms("-c", str(self.daemon.config), *arguments)

    def refresh(self) -> None:
        """Fetch another token, as its owner asks."""
        done = self.daemon.cms("refresh", SALES)
        assert done.returncode == 0, done.stderr

    def put(self, name: str, source: Path) -> None:
        """Copy a file to where the page has /var/lib/cms, for cms's user only."""
        path = self.daemon.home / name
        shutil.copyfile(source, path)
        path.chmod(0o600)
        os.chown(path, CMS, CMS)


def _run(text: str, folder: Path, environment: Mapping[str, str], stdin: str = "") -> str:
    done = subprocess.run(
        ["sh", "-ec", text],
        cwd=folder,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        # Without a terminal, what asks for a password takes it from the standard input.
        start_new_session=True,
    )
    evidence.keep("output", done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Fleet:
    """The hosts by name, their database, and the folder of the person who sets them up."""

    hosts: Mapping[str, Host]
    cluster: Cluster
    folder: Path


def _secured(cluster: Cluster, folder: Path) -> None:
    """Let roles with a password in by TLS, as the page has it, and its owner at the socket."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / "ca.pem").chmod(0o644)
    certificate = authority.issue_cert("localhost")
    data = cluster.folder / "data"
    for name, blob in {
        "server.key": certificate.private_key_pem.bytes(),
        "server.crt": b"".join(each.bytes() for each in certificate.cert_chain_pems),
        "pg_hba.conf": b"local all postgres trust\nhostssl cms all 127.0.0.0/8 scram-sha-256\n",
    }.items():
        (data / name).write_bytes(blob)
        (data / name).chmod(0o600)
        os.chown(data / name, data.stat().st_uid, data.stat().st_gid)
    cluster.sql("ALTER SYSTEM SET ssl = on", base="postgres")
    cluster.sql("SELECT pg_reload_conf()", base="postgres")


def _configure(host: Host, servers: MailServers, cluster: Cluster, folder: Path) -> None:
    """Write the page's configuration of this host."""
    daemon, home = host.daemon, host.daemon.home
    accounts = "".join(account_line(user.partition("@")[0], user, servers.entra) for user in (SALES, JOBS))
    text = replaced(
        shown("redeems" if host.name in REDEEM else "serves-only"),
        **{f'{user.partition("@")[0]} = Office365_Account(user="{user}")\n': "" for user in (SALES, JOBS)},
        **{
            "/var/lib/cms/": f"{home}/",
            "/run/cms/": f"{daemon.sockets}/",
            "/etc/cms/db-ca.pem": str(folder / "ca.pem"),
        },
        **{"host=db.example.org": f"host=localhost hostaddr=127.0.0.1 port={cluster.port}"},
    )
    text = re.sub("user=relay[12]", f"user={host.name}", text)
    daemon.configure(f'Tls(ca="{servers.entra.ca_file}")\n{accounts}{text}')


@pytest.fixture(scope="module")
def fleet(installation: Installation, servers: MailServers) -> Iterator[Fleet]:
    """The page followed up to the sign-in."""
    for user in (SALES, JOBS, READER):
        servers.add_user(user)
    with open_folder("fleet") as folder, open_folder("postgres") as data, daemons(installation) as make:
        cluster = Cluster(data)
        cluster.make()
        cluster.start()
        try:
            hosts = {name: Host(name, make(CMS)) for name in HOSTS}
            for host in hosts.values():
                _configure(host, servers, cluster, folder)
            first = hosts["relay1"]
            first.run("init", folder)
            _secured(cluster, folder)
            owner = bare_environment(PGHOST=str(data), PGPORT=str(cluster.port), PGUSER="postgres")
            _run(shown("database").replace("sudo -u postgres ", ""), folder, owner)
            for line in shown("roles").splitlines():
                password = secrets.token_hex(24)
                evidence.keep_secret(password)
                _run(line.replace("sudo -u postgres ", ""), folder, owner, stdin=f"{password}\n" * 2)
                (folder / "password").write_text(f"{password}\n")
                hosts[line.split()[-1]].put("fleet.password", folder / "password")
            for host in hosts.values():
                if host is not first:
                    host.put("fleet-tokens.key", first.daemon.home / "fleet-tokens.key")
            hosts["standby"].put("fleet.key", first.daemon.home / "fleet.key")
            for host in hosts.values():
                host.daemon.start()
            first.daemon.sign_in(SALES, servers.entra)
            for host in hosts.values():
                until(host.token, f"a token at {host.name}")
            yield Fleet(hosts, cluster, folder)
        finally:
            cluster.stop()


def test_each_host_knows_what_it_does(fleet: Fleet) -> None:
    """`cms check` says it, and a host that serves only signs nobody in."""
    for name, host in fleet.hosts.items():
        says = "this host shares its sign-ins" if name in REDEEM else "this host serves only"
        checked = host.cms("check")
        assert (0, True) == (checked.returncode, f"fleet: {says}" in checked.stdout), checked.stderr
    refused = fleet.hosts["relay2"].cms("login", SALES, "--paste")

    assert 0 != refused.returncode
    assert "this host only serves tokens" in refused.stderr + refused.stdout


def test_one_sign_in_serves_all(fleet: Fleet, servers: MailServers) -> None:
    """Every host gives programs the one token; the status is the page's on each."""
    assert 1 == len({host.token() for host in fleet.hosts.values()})

    for host in fleet.hosts.values():
        said = re.sub("from [^,]*, .*? left", "from relay1, 59 min left", host.run("status", fleet.folder))
        assert shown("told") in said


def test_mail_goes_out_through_each_relay(fleet: Fleet, servers: MailServers) -> None:
    """With real exims; that of the account without a token waits in the queue, and nothing bounces."""
    with ExitStack() as stack:
        relays = {
            name: stack.enter_context(exim(fleet.hosts[name].socket, servers, "exim-split", split=True, address=at))
            for name, at in RELAYS.items()
        }
        sent = {name: relay.take(SALES) for name, relay in relays.items()}
        waits = relays["relay3"].take(JOBS)

        for name, subject in sent.items():
            assert f"Return-path: <{SALES}>" in servers.wait_for_mail(READER, subject), name
        until(lambda: [0, 0, 1] == [relay.queue() for relay in relays.values()], "the queues to have what has no token")
        assert [] == servers.mail_of(JOBS)
        assert not any(waits in mail for mail in servers.mail_of(READER))


def test_an_outage_changes_nothing(fleet: Fleet, servers: MailServers) -> None:
    """Tokens that are held are served, also by a daemon that is started meanwhile, from its journal."""
    first = fleet.hosts["relay1"]
    before = first.token()
    fleet.cluster.stop()
    try:
        assert {before} == {host.token() for host in fleet.hosts.values()}
        first.daemon.restart()
        assert before == until(first.token, "a token from the journal")
    finally:
        fleet.cluster.start()


def test_the_standby_takes_over(fleet: Fleet, servers: MailServers) -> None:
    """While the first host is away, the standby fetches the next token, and a host that serves only gives it out."""
    first, standby, relay = (fleet.hosts[name] for name in ("relay1", "standby", "relay2"))
    before = relay.token()
    first.daemon.stop()
    try:
        # Three quarters of an hour later: of a younger token no host fetches the successor.
        fleet.cluster.sql(
            "UPDATE cms.tokens SET expires_at = clock_timestamp() + interval '15 min', refresh_at = clock_timestamp()"
        )
        standby.refresh()
        relay.refresh()
        assert before != standby.token() == relay.token()
    finally:
        first.daemon.start()
    assert standby.token() == until(first.token, "a token at the host that was away")


def test_back_to_one_host(fleet: Fleet, servers: MailServers) -> None:
    """What one host exports, it imports without the fleet, and goes on with."""
    host = fleet.hosts["standby"]
    others = [each for each in fleet.hosts.values() if each is not host]
    passphrase = host.daemon.home / "passphrase"
    passphrase.write_text("correct horse battery staple\n")
    passphrase.chmod(0o600)
    os.chown(passphrase, CMS, CMS)
    words = {"/var/lib/cms/": f"{host.daemon.home}/"}
    configuration = host.daemon.config.read_text()
    for each in others:
        each.daemon.stop()
    host.run("export", fleet.folder, **words)
    fleet.cluster.stop()
    try:
        alone, _, _ = configuration.partition("Fleet(")
        host.daemon.configure(f'{alone}Vault(key=File("{host.daemon.key}"))\n')
        assert 0 == host.daemon.cms("reload").returncode

        assert "imported: 1 of 1" in host.run("import", fleet.folder, **words)
        host.daemon.restart()
        assert until(host.token, "a token without the fleet")
    finally:
        fleet.cluster.start()
        host.daemon.configure(configuration)
        host.daemon.restart()
        for each in others:
            each.daemon.start()


def test_a_sign_out_is_heard_everywhere(fleet: Fleet) -> None:
    """At once, by every host that is connected."""
    for host in fleet.hosts.values():
        until(host.token, "a token")
    out = fleet.hosts["relay1"].cms("logout", SALES)

    assert f"{SALES}: signed out on every host of the fleet" in out.stdout, out.stderr
    for name, host in fleet.hosts.items():
        until(lambda host=host: not host.token(), f"the sign-out to be heard at {name}")  # type: ignore[misc]  # no lambda has annotations
