"""Real mail servers that check each token: Dovecot (IMAP, POP, SASL) and exim (submission), by introspection.

Dovecot asks the sandbox's Entra about every token, separately for each protocol's scope, and compares its owner with
the user who logs in. exim trusts only Dovecot's answer, refuses to send as another, as Exchange does, and delivers
into the Maildir that Dovecot shows.
"""

from __future__ import annotations

import os
import pwd
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp

import trustme

from cms.sandbox.entra import Entra
from cms.sandbox.issuer import Issuer
from cms.sandbox.web import WebReply, WebRequest, as_json
from support import dovecot, proc
from support.evidence import children
from support.machine import EXIM_USER, Machine
from support.ports import free_port
from support.programs import require_program, require_root
from support.reachable import bare_environment, open_folder
from support.waiting import PATIENCE, until

# Owns all mailboxes; neither a login nor one of Debian's.
MAIL_UID = 64100

# One look whether a server answers yet; another one follows.
_TRY_SECONDS = 10.0

# Dovecot's name of a protocol -> the permission that its tokens need.
_SCOPES = {"imap": "IMAP.AccessAsUser.All", "pop3": "POP.AccessAsUser.All", "smtp": "SMTP.Send"}

# What Dovecot 2.3 and 2.4 call the header with that name.
_PROTOCOL_HEADERS = ("x-dovecot-auth-service", "x-dovecot-auth-protocol")

_EXIM = """
primary_hostname = localhost
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
keep_environment =
host_lookup =
rfc1413_query_timeout = 0s
tls_advertise_hosts = *
tls_certificate = {folder}/server.pem
tls_privatekey = {folder}/server.pem
auth_advertise_hosts = ${{if def:tls_in_cipher{{*}}}}
acl_smtp_mail = acl_mail
acl_smtp_rcpt = acl_rcpt
log_selector = +smtp_protocol_error +incoming_port

begin acl
acl_mail:
  deny !authenticated = *
       message = 5.7.57 Client not authenticated to send mail
  deny !condition = ${{if eqi{{$sender_address}}{{$authenticated_id}}}}
       !condition = ${{if inlisti{{$sender_address}}{{${{lookup{{$authenticated_id}}lsearch{{{folder}/send-as}}}}}}}}
       message = 5.7.60 SMTP; Client does not have permissions to send as this sender
  accept
acl_rcpt:
  deny local_parts = nobody
       message = 5.1.10 Recipient not found
  accept

begin routers
mailbox:
  driver = accept
  transport = maildir

begin transports
maildir:
  driver = appendfile
  directory = ${{lookup{{$local_part@$domain}}dsearch,ret=full,filter=dir{{{folder}/mail}}}}/Maildir
  maildir_format
  return_path_add
  user = {uid}
  group = {uid}

begin authenticators
xoauth2:
  driver = dovecot
  public_name = XOAUTH2
  server_socket = {folder}/sasl
  server_set_id = $auth1
oauthbearer:
  driver = dovecot
  public_name = OAUTHBEARER
  server_socket = {folder}/sasl
  server_set_id = $auth1
"""


@dataclass
class MailServers:
    """The running servers. Ports are on localhost, `ca_file` vouches for them."""

    folder: Path
    entra: Entra
    imap: int
    pop: int
    submission: int
    machine: Machine
    dovecot: int = 0
    # Providers whose tokens Dovecot takes as well, for the scope that each has for mail.
    others: list[Issuer] = field(default_factory=list)

    @property
    def ca_file(self) -> str:
        """The authority behind the servers' certificate, readable by all."""
        return str(self.folder / "ca.pem")

    @property
    def tls(self) -> ssl.SSLContext:
        """What a Python client verifies the servers with."""
        return ssl.create_default_context(cafile=self.ca_file)

    def add_user(self, name: str) -> str:
        """Make a user of the sandbox with an empty mailbox here; what other tests have left in it is deleted."""
        self.entra.add_user(name)
        mailbox = self.folder / "mail" / name.lower()
        if mailbox.exists():
            # With Dovecot's indexes: a message alone that vanishes behind its back is missed in them.
            mailbox.rename(Path(mkdtemp(dir=self.folder)) / mailbox.name)
        mailbox.mkdir()
        os.chown(mailbox, MAIL_UID, MAIL_UID)
        return name

    @contextmanager
    def sending_as(self, name: str, other: str) -> Iterator[None]:
        """Give a user the right to send as another, for a time."""
        rights = self.folder / "send-as"
        rights.write_text(f"{name}: {other}\n")
        try:
            yield
        finally:
            rights.write_text("")

    def mail_of(self, name: str) -> list[str]:
        """Return the messages in a user's mailbox, in no order."""
        while True:
            # A message that is renamed on the way may be seen under both names.
            with suppress(FileNotFoundError):
                found = {file.name.partition(":")[0]: file.read_text(errors="replace") for file in self._messages(name)}
                return list(found.values())

    def _messages(self, name: str) -> list[Path]:
        """Return the files of a user's messages. Dovecot moves them from `new` to `cur`, so none is missed."""
        maildir = self.folder / "mail" / name.lower() / "Maildir"
        return [file for folder in ("new", "cur") for file in (maildir / folder).glob("*")]

    def wait_for_mail(self, name: str, text: str) -> str:
        """Return the message that has this text in it, once it has been delivered."""
        found = until(lambda: [each for each in self.mail_of(name) if text in each], f"mail with {text!r}")
        assert len(found) == 1, "the message was delivered more than once"
        return found[0]

    def log(self) -> str:
        """Return what both servers have logged; of Dovecot all that it has done so far."""
        until(lambda: proc.is_done(self._logger), "Dovecot's log")
        said = self.folder / "dovecot.log"
        return (said.read_text(errors="replace") if said.exists() else "") + self.machine.log()

    @cached_property
    def _logger(self) -> int:
        """The process to which Dovecot's others hand what is to be logged, and then go on."""
        (found,) = (int(each) for each in children(self.dovecot) if proc.name(int(each)) == "log")
        return found


@contextmanager
def mail_servers() -> Iterator[MailServers]:
    """Run an Entra, a Dovecot and an exim that belong together."""
    require_root()
    require_program("doveconf", "dovecot-core")
    with Entra() as entra, open_folder("mail") as folder:
        _prepare(folder)
        (folder / "exim").mkdir(mode=0o755)
        machine = Machine(folder / "exim", {})
        imap, pop, submission = free_ports(3)
        servers = MailServers(folder, entra, imap, pop, submission, machine)
        with _dovecot(servers), _exim(servers):
            yield servers


def free_ports(number: int) -> list[int]:
    """Return different free ports of 127.0.0.1."""
    found: set[int] = set()
    while len(found) < number:
        found.add(free_port())
    return list(found)


def _prepare(folder: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("localhost", "127.0.0.1", common_name="localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    exim = pwd.getpwnam(EXIM_USER)
    os.chown(folder / "server.pem", exim.pw_uid, exim.pw_gid)
    (folder / "server.pem").chmod(0o600)
    (folder / "send-as").touch(mode=0o644)
    (folder / "mail").mkdir(mode=0o755)
    os.chown(folder / "mail", MAIL_UID, MAIL_UID)


@contextmanager
def _dovecot(servers: MailServers) -> Iterator[None]:
    folder = servers.folder
    servers.entra.plain.paths["/dovecot"] = lambda request: _introspect(servers, request)
    url = f"{servers.entra.plain.url}/dovecot?token="
    configuration = dovecot.write(folder, url, imap=servers.imap, pop=servers.pop, uid=MAIL_UID)
    command = [require_program("dovecot", "dovecot-core"), "-F", "-c", str(configuration)]
    with _running(command, folder / "dovecot.out") as servers.dovecot:
        until(lambda: _greets(servers.imap, servers.tls), "Dovecot's greeting")
        until((folder / "sasl").exists, "Dovecot's SASL socket")
        yield


def _introspect(servers: MailServers, request: WebRequest) -> WebReply:
    """Answer Dovecot, which has no scope for each protocol since 2.4 and so leaves it to this to look at the scope."""
    protocol = next(value for name, value in request.headers.items() if name.lower() in _PROTOCOL_HEADERS)
    wanted = {_SCOPES[protocol]: servers.entra} | {each.habits.mail: each for each in servers.others}
    for scope, place in wanted.items():
        claims = place.introspect(request.fields["token"])
        if scope in claims.get("scope", "").split():
            return as_json(claims)
    return as_json({"active": False})


@contextmanager
def _exim(servers: MailServers) -> Iterator[None]:
    servers.machine.configure(_EXIM.format(folder=servers.folder, port=servers.submission, uid=MAIL_UID))
    command = servers.machine.argv(servers.machine.exim, "-bdf")
    with _running(command, servers.folder / "exim.out"):
        until(lambda: _speaks_smtp(servers.submission), "exim's greeting")
        yield


@contextmanager
def _running(command: list[str], output: Path) -> Iterator[int]:
    """Run a server for the block, which is given its process."""
    with (
        output.open("wb") as file,
        subprocess.Popen(command, stdout=file, stderr=file, env=dict(bare_environment())) as process,
    ):
        try:
            yield process.pid
        except BaseException as problem:
            problem.add_note(f"{command[0]}: {output.read_text(errors='replace')}")
            raise
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _greets(port: int, tls: ssl.SSLContext) -> bool:
    try:
        with (
            socket.create_connection(("localhost", port), _TRY_SECONDS) as plain,
            tls.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            return bool(secure.recv(1))
    except OSError:
        return False


def _speaks_smtp(port: int) -> bool:
    try:
        with smtplib.SMTP("localhost", port, timeout=_TRY_SECONDS) as server:
            return server.noop()[0] == 250
    except (OSError, smtplib.SMTPException):
        return False
