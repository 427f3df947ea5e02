"""fetchmail's file is read word by word, and its password files that cms keeps are found."""

from __future__ import annotations

from support.mail_files import machine

from cms.cli.doctor.mail_tools.fetchmail import uses
from cms.cli.doctor.mail_tools.found import TokenPath

FILE = """\
set daemon 300 # passwordfile /comment
defaults auth password
poll "h"  # a comment
  proto IMAP, auth oauthbearer and
  user 'u@x' passwordfile "/run/a\\"b" sslmode wrapped
skip pop.h protocol pop3
  authenticate=xoauth2 user u passwordfile ~/token
poll other user u passwordfile /pw
"""


def read(text: str, release: int = 7) -> list[TokenPath]:
    return [each for each in uses(machine({".fetchmailrc": text}, release=release)) if isinstance(each, TokenPath)]


def test_an_awkward_file() -> None:
    """Line ends mean nothing, quotes and comments do; each server has its own settings."""
    assert [
        (5, '/run/a"b', "IMAP", []),
        (7, "/home/u/token", "POP", []),
        (8, "/pw", "IMAP", ["without `auth oauthbearer`"]),
    ] == [
        (each.place.line, each.path, each.protocol, [fault.cause[:26] for fault in each.faults]) for each in read(FILE)
    ]


def test_what_can_never_log_in() -> None:
    """Version 6, of which nobody knows a token; another way to log in. Without fetchmail its version is not known."""
    text = "poll h auth {} user u passwordfile /t"

    assert ["fetchmail 6 cannot log in with a token, only 7 and newer can"] == [
        each.cause for use in read(text.format("oauthbearer"), 6) for each in use.faults
    ]
    assert ["`auth password` sends it as a password"] == [
        each.cause for use in read(text.format("password"), 0) for each in use.faults
    ]
