"""A mail program in a few lines: it asks the daemon for a SASL string, and logs in at the sandbox with the token."""

from __future__ import annotations

import smtplib
import ssl
from pathlib import Path

from cms.sandbox.entra import Entra
from cms.sandbox.submission import Submission
from support.daemon import ask


def sasl(sock: Path, user: str, protocol: str = "SMTP") -> tuple[str, str]:
    """Return the user and the token of the SASL string that is served for a name."""
    said = ask(sock, f"{protocol} {user}\n".encode()).decode()
    name, _, rest = said.removeprefix("user=").partition("\x01auth=Bearer ")
    assert rest.endswith("\x01\x01"), said
    return name, rest[:-2]


def log_in(entra: Entra, server: Submission, user: str, token: str) -> None:
    """Log in at the submission server."""
    with smtplib.SMTP("localhost", server.port) as client:
        client.starttls(context=ssl.create_default_context(cafile=entra.ca_file))
        client.ehlo()
        client.auth(
            "XOAUTH2", lambda challenge=None: "" if challenge else f"user={user}\x01auth=Bearer {token}\x01\x01"
        )
