"""The directives for the whole daemon (Vault, Notify, Audit, Tls, SignInPage, Proxy) and for secrets (File, Credential, Command)."""

from __future__ import annotations

import ipaddress
import os
import shutil
from contextlib import suppress

from cms.config import arguments, trust
from cms.config.arguments import Given, Mistake, optional
from cms.config.draft import Draft
from cms.config.model import AuditSpec, MetricsSpec
from cms.core.accounts import Proxy, Source
from cms.core.hooks import EVENTS, GRACE_SECONDS, REMIND_SECONDS, USUAL_EVENTS, Hook
from cms.system.files import read_regular

# Where certificates are looked for, in bytes: a file with all public authorities has a quarter of a megabyte.
MOST_AUTHORITIES = 4 * 1024 * 1024

MAX_PORT = 65535

# People stop reading reminders that come more often than this.
MIN_REMIND = 60.0


def vault(draft: Draft, key: Given, *, old_key: Given = None) -> None:
    """Vault: where to read the key that encrypts the stored sign-ins, and where the key is that it replaces."""
    draft.once("Vault")
    draft.vault_key = _key_source("key", key)
    old = optional(old_key, lambda given: _key_source("old_key", given))
    if old and old.kind == "memory":
        raise Mistake("old_key= is where the key of stored sign-ins is, and memory stores none", "Leave old_key= out")
    if old and old == draft.vault_key and old.kind == "keyring":
        raise Mistake("key= and old_key= are both the keyring, which needs no old_key=", "Leave old_key= out")
    draft.vault_old_key = old


def notify(
    draft: Draft,
    command: Given = None,
    events: Given = USUAL_EVENTS,
    remind: Given = REMIND_SECONDS,
    grace: Given = GRACE_SECONDS,
    *,
    desktop: Given = None,
) -> None:
    """Notify: a program to run on events, and whether to show desktop notifications."""
    if command is None and desktop is None:
        raise Mistake("there is nothing to notify with", 'Such as Notify(["notify-me", "--mail"])')
    if desktop is not None:
        draft.once("Notify(desktop=...)")
        draft.desktop = arguments.flag("desktop", desktop)
    if command is not None:
        line = draft.line()
        hook = Hook(
            arguments.command("command", command, draft.folder),
            arguments.choices("events", events, tuple(EVENTS)),
            arguments.seconds("remind", remind, MIN_REMIND, zero=True),
            arguments.seconds("grace", grace, 0.0),
            line=line,
        )
        _warn_of_program(draft, hook)
        draft.hooks.append(hook)


def _warn_of_program(draft: Draft, hook: Hook) -> None:
    """Warn of a program that does not exist, or that other users could change."""
    program, found = hook.argv[0], shutil.which(hook.argv[0])
    if found is None:
        draft.warn(hook.line, f"there is no program {program}: no notifications are sent until it exists")
        return
    try:
        trust.check_program(found, draft.runners)
    except trust.Untrusted as untrusted:
        draft.warn(
            hook.line,
            f"other users could change {program}, which runs as the user who runs cms. To prevent that: {untrusted.hint}",
        )


def audit(draft: Draft, file: Given = None, *, journal: Given = False) -> None:
    """Audit: where to write a record of each request."""
    draft.once("Audit")
    wanted = arguments.flag("journal", journal)
    path = optional(file, lambda given: draft.writes(arguments.file_path("file", given, draft.folder))) or ""
    if not path and not wanted:
        raise Mistake("there is nothing to write to", 'Such as Audit("/var/log/cms/audit.log") or Audit(journal=True)')
    if path:
        draft.occupy(path, draft.line())
        try:
            trust.check_place(path, draft.runners)
            # What cannot be looked at cannot be written to either.
            with suppress(OSError):
                trust.check_folder(path, draft.runners)
        except trust.Untrusted:
            draft.warn(
                draft.line(),
                f"no record is written to {path}: other users could put another file there. Name a file in a folder that"
                " only you and root can write to, in folders of which the same is true",
            )
            path = ""
    draft.audit = AuditSpec(path, wanted)


def metrics(draft: Draft, address: Given) -> None:
    """Metrics: where Prometheus gets the daemon's metrics, as ADDRESS:PORT or the path of a socket."""
    draft.once("Metrics")
    given = arguments.text("address", address)
    if "/" in given:
        path = draft.writes(arguments.socket_path(given, draft.folder))
        draft.occupy(path, draft.line())
        draft.metrics = MetricsSpec(path)
        return
    host, colon, port = given.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.removeprefix("[").removesuffix("]") or "127.0.0.1")
        number = int(port) if port.isascii() and port.isdigit() else 0
    except ValueError:
        number = 0
    if not colon or not 0 < number <= MAX_PORT:
        raise Mistake("address= is an IP address and a port, or a path", 'Such as Metrics("127.0.0.1:9464")')
    if not ip.is_loopback:
        draft.warn(
            draft.line(),
            f"everybody who reaches {given} can read the metrics, which name the accounts: let a firewall decide who does",
        )
    draft.metrics = MetricsSpec(host=str(ip), port=number)


def tls(draft: Draft, ca: Given) -> None:
    """Tls: certificate authorities to trust instead of the usual ones."""
    draft.once("Tls")
    path = draft.reads(arguments.path("ca", ca, draft.folder), "the ca=")
    if why := ca_fault(path):
        raise Mistake(f"ca= {why}")
    draft.ca = path


def ca_fault(path: str) -> str:
    """Return why a file has no certificate authorities, "" if it may have some."""
    try:
        certificates = read_regular(path, MOST_AUTHORITIES)
    except OSError as error:
        return f"cannot be read: {path}: {error.strerror}"
    return "" if b"-----BEGIN CERTIFICATE-----" in certificates else f"contains no certificate in PEM form: {path}"


def sign_in_page(draft: Draft, url: Given = arguments.PAGE) -> None:
    """SignInPage: the address of the local page that lists the accounts that wait for a sign-in."""
    draft.once("SignInPage")
    draft.page = arguments.page(url)


def proxy(draft: Draft, url: Given, no_proxy: Given = (), *, password: Given = None) -> None:
    """Proxy: the HTTP proxy on the way to the providers."""
    draft.once("Proxy")
    address, user = arguments.proxy(url)
    secret = optional(password, lambda given: arguments.secret("password", given))
    if secret and not user:
        raise Mistake("password= belongs to a user, and url= names none", 'Such as "http://USER@HOST:PORT"')
    names = tuple(arguments.host("no_proxy", each) for each in arguments.sequence("no_proxy", no_proxy))
    draft.proxy = Proxy(address, names, user, secret)


def file(draft: Draft, path: Given) -> Source:
    """File: a secret in a file."""
    return Source("file", (draft.reads(arguments.path("path", path, draft.folder), "the File"),))


def _key_source(name: str, given: Given) -> Source:
    if given in ("keyring", "memory"):
        return Source(str(given))
    if isinstance(given, Source):
        return given
    raise Mistake(
        f"{name}= takes no literal key: name the place to read it from",
        f'{name}=File("PATH"), {name}=Credential("NAME"), {name}=Command(["PROGRAM", ...]), {name}="keyring"'
        + (' or key="memory"' if name == "key" else ""),
    )


def credential(name: Given) -> Source:
    """Credential: a secret that systemd passes to the service."""
    found = arguments.text("name", name)
    if os.sep in found or found in {".", ".."}:
        raise Mistake("name= is a systemd credential's name, not a path", 'File("PATH") takes a path')
    return Source("credential", (found,))


def command(draft: Draft, argv: Given) -> Source:
    """Command: a secret that a program prints."""
    words = arguments.sequence("argv", argv)
    if not words:
        raise Mistake("argv= is an empty list", 'Such as Command(["pass", "show", "cms"])')
    return Source("command", arguments.command("argv", words, draft.folder))
