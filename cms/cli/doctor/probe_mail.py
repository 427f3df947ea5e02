"""Logs in to a mail server for `cms doctor`, in a child process, so that a test that hangs can be killed.

The child process runs this file. It gets the token on its standard input, never as an argument, and prints one JSON
object.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cms.cli.doctor.assess import MailTest
from cms.system.start import ISOLATION
from cms_oauth.diagnosis.verdicts import Verdict, as_data
from cms_oauth.json_object import read_object
from cms_oauth.mailtest import run as mailtest

# A good server answers a login within a second or two.
SECONDS = 8.0

# The time that a child process needs to start and to end, beside its own deadline.
_MARGIN = 4.0


def run(
    protocol: str,
    host: str,
    user: str,
    token: str,
    *,
    mailbox: str = "",
    seconds: float = SECONDS,
    skew: float | None = None,
    provider: str = "",
) -> MailTest:
    """Log in, run one command, and return the result. Over IMAP it opens `mailbox` instead of INBOX.

    `skew` is by how many seconds this machine's clock is ahead, None for unknown; `provider` whose the account is, "" for
    unknown. Both can explain a refusal.
    """
    told = {
        "test": protocol.lower(),
        "host": host,
        "user": user,
        "token": token,
        "mailbox": mailbox,
        "seconds": seconds,
        "skew": skew,
        "provider": provider,
    }
    known = MailTest(protocol, user, host, mailbox=mailbox)
    argv = [sys.executable, ISOLATION, "-m", "cms.cli.doctor.probe_mail"]
    try:
        done = subprocess.run(
            argv, input=json.dumps(told), capture_output=True, text=True, timeout=seconds + _MARGIN, check=False
        )
    except subprocess.TimeoutExpired:
        return replace(known, code="unavailable", message=f"{host} did not answer within {seconds:g} s")
    return _understood(done.stdout, known)


def _understood(text: str, known: MailTest) -> MailTest:
    try:
        said = read_object(text)
    except ValueError:
        return replace(known, code="unavailable", message=f"the test of {known.host} ended without a result")
    verdicts = tuple(_verdict(each) for each in said.pop("verdicts", ()))
    return replace(known, **said, verdicts=verdicts)


def _verdict(data: Mapping[str, Any]) -> Verdict:
    fields: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in data.items()}
    return Verdict(**fields)


def main() -> None:
    """Run the test in the child process."""
    told: dict[str, Any] = json.load(sys.stdin)
    mailbox = told.pop("mailbox")
    # The test prints its dialogue, which the doctor does not show.
    with contextlib.redirect_stderr(io.StringIO()):
        report = mailtest.run(**told, **({"mailbox": mailbox} if mailbox else {}))
    failed = report.failed
    said = {"code": failed.code, "message": failed.message, "hint": failed.hint} if failed else {}
    print(json.dumps({**said, "reply": report.reply, "verdicts": [as_data(each) for each in report.verdicts]}))


if __name__ == "__main__":
    main()
