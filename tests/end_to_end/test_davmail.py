"""docs/other-ways.md: Debian's DavMail with contrib/davmail.properties, without a desktop, against a simulated Microsoft.

The sandbox has the token endpoint that DavMail 6 asks and no EWS, so a test ends with DavMail's first request to EWS.
"""

from __future__ import annotations

import imaplib
import json
import re
import smtplib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trustme
from support import evidence
from support.contrib import ROOT, replaced
from support.fragments import blocks, contrib
from support.ports import free_port
from support.programs import listed_packages, require_program
from support.proxy import proxies
from support.waiting import PATIENCE, until

from cms.sandbox import person
from cms.sandbox.directory import Client
from cms.sandbox.entra import Entra
from cms.sandbox.web import WebReply, WebRequest, as_json

USER = "user@domain.com"
PAGE = (ROOT / "docs" / "other-ways.md").read_text()
SHOWN = {block.mark: block.text for block in blocks(PAGE)}

# The password that the mail programs give, which has nothing to do with Microsoft's.
SECRET, OTHER_SECRET = "of this machine only", "another one"

# What it says where EWS does not answer, where it can ask nobody, and where a window is wanted.
NO_EWS = "All network interfaces down or host unreachable !"
NO_TERMINAL = "Authentication failed, code not available"
NO_DESKTOP = "O365Interactive not supported in headless mode"

# DavMail's own application, where the page's redirect address is registered.
DAVMAIL = "facd6cff-a294-4415-b59f-c5b01937d7bd"
LOGIN_HOST, EXCHANGE_HOST = "login.microsoftonline.com", "outlook.office365.com"
REDIRECT = re.findall("^davmail.oauth.redirectUri=(.*)$", contrib("davmail.properties"), re.MULTILINE)[0]


class Microsoft(Entra):
    """The sandbox with the endpoints of version 1, which name a resource in place of scopes."""

    def __init__(self, folder: Path) -> None:
        super().__init__([USER])
        self.register(Client(DAVMAIL, (REDIRECT,)))
        # What was asked of EWS, and what is known of the token with it.
        self.ews: list[dict[str, Any]] = []
        authority = trustme.CA()
        certificate = authority.issue_cert(LOGIN_HOST, EXCHANGE_HOST, "localhost")
        self.authorities = str(folder / "authorities.pem")
        authority.cert_pem.write_to_path(self.authorities)
        assert self.secure.context
        certificate.configure_cert(self.secure.context)

    def answer(self, request: WebRequest) -> WebReply:
        if request.path.lower() == "/ews/exchange.asmx":
            token = request.headers.get("authorization", "").removeprefix("Bearer ")
            if token:
                self.ews.append(self.introspect(token))
            return WebReply(404 if token else 401)
        path = request.path.replace("/oauth2/token", "/oauth2/v2.0/token")
        path = path.replace("/oauth2/authorize", "/oauth2/v2.0/authorize")
        scope = f"https://{EXCHANGE_HOST}/EWS.AccessAsUser.All"
        reply = super().answer(replace(request, path=path, fields={"scope": scope, **request.fields}))
        if path == request.path or not path.endswith("/token") or reply.status != 200:
            return reply
        return as_json({**json.loads(reply.body), "expires_on": int(time.time() + self.token_life)})


@dataclass
class DavMail:
    """Starts DavMail with the file of contrib/, adjusted."""

    folder: Path
    microsoft: Microsoft
    imap: int
    smtp: int

    @property
    def tokens(self) -> Path:
        return self.folder / ".davmail-tokens"

    @property
    def log(self) -> str:
        """What it has written to its terminal so far."""
        path = self.folder / "terminal"
        return path.read_text() if path.exists() else ""

    @contextmanager
    def running(self, *, terminal: bool = True) -> Iterator[subprocess.Popen[str]]:
        """Run it as the page says, with a terminal to paste into, or with none, as a service."""
        (self.folder / "terminal").unlink(missing_ok=True)
        words = {"~": str(self.folder), "davmail-server ": "exec davmail-server "}
        trust = f"-Djavax.net.ssl.trustStore={self.folder}/trust -Djavax.net.ssl.trustStorePassword=changeit"
        with (self.folder / "terminal").open("w") as output:
            process = subprocess.Popen(
                ["sh", "-c", replaced(SHOWN["test: run"], **words)],
                env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "JAVA_TOOL_OPTIONS": trust},
                stdin=subprocess.PIPE if terminal else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
            )
        try:
            started = f"SMTP port {self.smtp} IMAP port {self.imap}"
            until(lambda: process.poll() is not None or started in self.log, "DavMail")
            assert process.poll() is None, self.log
            yield process
        finally:
            process.terminate()
            process.communicate()
            evidence.keep("output", self.log)

    def read(self, secret: str) -> str:
        """Log in by IMAP; return what the answer was."""
        with imaplib.IMAP4("127.0.0.1", self.imap, timeout=PATIENCE) as client:
            try:
                return str(client.login(USER, secret))
            except imaplib.IMAP4.error as refusal:
                # Before Python 3.14 these are bytes in a string.
                return str(refusal).removeprefix("b'").removesuffix("'")

    def send(self, secret: str) -> str:
        """Log in by SMTP; return what the answer was."""
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=PATIENCE) as client:
            try:
                return str(client.login(USER, secret))
            except smtplib.SMTPAuthenticationError as refusal:
                return str(refusal)

    def renewals(self) -> int:
        return self.microsoft.count("token", grant_type="refresh_token")


@pytest.fixture(scope="module")
def davmail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DavMail]:
    """Set up, not signed in."""
    require_program("davmail-server", "davmail-server")
    folder = tmp_path_factory.mktemp("davmail")
    with Microsoft(folder) as microsoft, proxies() as proxy:
        for host in (LOGIN_HOST, EXCHANGE_HOST):
            proxy.places[f"{host}:443"] = f"localhost:{microsoft.secure.port}"
        made = DavMail(folder, microsoft, free_port(), free_port())
        words = {"/home/user": str(folder), "=1143": f"={made.imap}", "=1025": f"={made.smtp}"}
        way = f"davmail.enableProxy=true\ndavmail.proxyHost=127.0.0.1\ndavmail.proxyPort={proxy.port}\n"
        (folder / ".davmail.properties").write_text(replaced(contrib("davmail.properties"), **words) + way)
        store = ["-importcert", "-noprompt", "-file", microsoft.authorities, "-keystore", str(folder / "trust")]
        keytool = require_program("keytool", "default-jre-headless")
        subprocess.run([keytool, *store, "-storepass", "changeit"], check=True, capture_output=True)
        yield made


def in_background(work: Callable[[], str]) -> tuple[Thread, list[str]]:
    """Start a call; return its thread, and where its result will be."""
    results = list[str]()
    thread = Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


def test_the_sign_in_by_hand(davmail: DavMail) -> None:
    """DavMail shows a link in its terminal and reads the pasted address; it stores the sign-in, and asks EWS with it.

    Started again without a terminal it asks no question: the same password opens the sign-in, another one does not.
    """
    with davmail.running() as process:
        thread, results = in_background(lambda: davmail.read(SECRET))
        (link,) = until(lambda: re.findall(r"^https://\S+/authorize\S+$", davmail.log, re.MULTILINE), "the link")
        question = re.sub(r" +$", "", davmail.log, flags=re.MULTILINE)
        there = link.replace(f"https://{LOGIN_HOST}", davmail.microsoft.authority)
        page = person.sign_in(there, USER, ca_file=davmail.microsoft.authorities, follow=False)
        assert process.stdin
        process.stdin.write(f"{page.url}\n")
        process.stdin.flush()
        thread.join()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", davmail.imap))

    assert SHOWN["test: question"] in question
    assert page.url.startswith(REDIRECT)
    # The sandbox has no EWS; version 7 says so to the mail program too.
    assert "LOGIN failed" in results or NO_EWS in results[0]
    assert [(True, USER)] == [(each["active"], each["email"]) for each in davmail.microsoft.ews]
    assert f"{USER}={{AES}}" in davmail.tokens.read_text()
    assert 0 == davmail.tokens.stat().st_mode & 0o077
    assert 0 == davmail.renewals()

    with davmail.running(terminal=False):
        same, renewals, asked = davmail.send(SECRET), davmail.renewals(), len(davmail.microsoft.ews)
        other = davmail.read(OTHER_SECRET)

    assert NO_EWS in same
    assert 0 < renewals == davmail.renewals()
    assert 1 < asked == len(davmail.microsoft.ews)
    assert "LOGIN failed" == other
    assert NO_TERMINAL in davmail.log
    assert [True, True] == [f"`{each}`" in PAGE for each in (NO_EWS, NO_TERMINAL)]


def test_a_window_needs_a_desktop(davmail: DavMail) -> None:
    """DavMail refuses that login type, in the words of the page."""
    path = davmail.folder / ".davmail.properties"
    usual = path.read_text()
    path.write_text(replaced(usual, O365Manual="O365Interactive"))
    with davmail.running():
        refused = davmail.read(SECRET)
    path.write_text(usual)

    assert "LOGIN failed" == refused
    assert NO_DESKTOP in davmail.log
    assert f'"{NO_DESKTOP}"' in PAGE


def test_the_file_is_shown_as_it_is() -> None:
    """The page has whole lines of contrib/davmail.properties."""
    assert f"\n{SHOWN['file: contrib/davmail.properties']}" in contrib("davmail.properties")


def test_the_page_installs_what_the_tests_have() -> None:
    """Its apt line names packages of tests/debian-packages.txt."""
    assert (
        f"sudo apt install {' '.join(each for each in listed_packages() if 'davmail' in each)}\n" == SHOWN["packages"]
    )
