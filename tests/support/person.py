"""A user who has followed docs/clients/README.md and now uses mail programs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from cms.sandbox.directory import CLIENT_ID
from support import evidence
from support.contrib import replaced
from support.daemon import Daemon, daemons, settings_lines
from support.fragments import shown
from support.reachable import ALICE, Installation
from support.servers import MAIL_UID, MailServers

# As in all examples.
USER = "user@domain.com"
READER = "reader@domain.com"

_numbers = count()


@dataclass
class Person:
    """The daemon runs, the account is signed in, cms's commands are in the PATH. Not root."""

    broker: Daemon
    servers: MailServers

    @property
    def home(self) -> Path:
        return self.broker.home

    @property
    def socket(self) -> Path:
        """Where programs look by themselves."""
        return self.home / "run" / "cms" / "cms.sock"

    @property
    def environment(self) -> Mapping[str, str]:
        """What the person's programs have beside the usual: cms in the PATH, and the test's authority for TLS."""
        path = f"{self.broker.installation.folder}/bin:/usr/bin:/bin"
        return {"PATH": path, "SSL_CERT_FILE": self.servers.ca_file}

    def file(self, name: str, text: str, **words: str) -> Path:
        """Write a file of the person's, at home, with words of an example replaced; return its path."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(replaced(text, **words))
        path.chmod(0o600)
        for each in (path, *path.parents):
            if each.is_relative_to(self.home):
                os.chown(each, self.broker.uid, self.broker.uid)
        return path

    def run(self, *command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program as the person, at home."""
        variables = [f"{name}={value}" for name, value in {**self.environment, **environment}.items()]
        done = self.broker.run("env", "-C", str(self.home), *variables, *command, stdin=stdin)
        evidence.keep("output", done.stderr)
        return done

    def shell(self, text: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run an example as the person types it, in a shell."""
        return self.run("sh", "-c", text, stdin=stdin, **environment)

    def message(self, sender: str = USER, to: str = READER) -> tuple[str, str]:
        """Return a message and its subject, which no other message has."""
        subject = f"message {next(_numbers)} of {os.getpid()}."
        return f"From: {sender}\nTo: {to}\nSubject: {subject}\n\nhello\n", subject

    def receive(self, user: str = USER) -> str:
        """Put a message into the account's mailbox; return its subject."""
        text, subject = self.message(sender=READER, to=user)
        maildir = self.servers.folder / "mail" / user / "Maildir"
        _give(maildir, *(maildir / folder for folder in ("new", "cur", "tmp")))
        draft = maildir / "tmp" / subject.replace(" ", "-")
        draft.write_text(text)
        os.chown(draft, MAIL_UID, MAIL_UID)
        # Whole: a program may be reading the folder.
        draft.rename(maildir / "new" / draft.name)
        return subject

    def outlive_pause(self, protocol: str = "SMTP") -> None:
        """Do as `Daemon.outlive_pause`."""
        self.broker.outlive_pause(self.socket, USER, self.servers.entra.token_life, protocol)

    def start_broker(self) -> None:
        """Start the daemon again, while the account is signed in."""
        self.broker.resume(self.socket, USER)

    def logout(self) -> None:
        """Sign the account out."""
        done = self.broker.cms("logout", "-c", str(self.broker.config), USER)
        assert done.returncode == 0, done.stderr

    def login(self) -> None:
        """Sign the account in."""
        self.broker.sign_in(USER, self.servers.entra)


def _give(*folders: Path) -> None:
    """Make folders of the mail server's where they are missing."""
    for folder in folders:
        folder.mkdir(exist_ok=True, mode=0o700)
        os.chown(folder, MAIL_UID, MAIL_UID)


@contextmanager
def person(
    installation: Installation, servers: MailServers, more: str = "", *, configuration: str = ""
) -> Iterator[Person]:
    """Set up a page's configuration, README's if none is given, start the daemon and sign in.

    `more` are further directives; {sockets} in them is a folder that others can enter.
    """
    for user in (USER, READER):
        servers.add_user(user)
    with daemons(installation) as make:
        broker = make(ALICE)
        there = f', authority="{servers.entra.authority}", client_id="{CLIENT_ID}", redirect_uri="http://localhost/"'
        configuration = replaced(
            configuration or shown("README", "configuration"),
            **{"/run/user/1000": f"{broker.home}/run", f'user="{USER}"': f'user="{USER}"{there}'},
        )
        more = more.replace("{sockets}", str(broker.sockets))
        broker.configure(settings_lines(broker.home, servers.entra) + configuration + more)
        broker.start()
        broker.sign_in(USER, servers.entra)
        yield Person(broker, servers)
