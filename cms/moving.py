"""The terminal's half of `cms import`: which file is meant, and the password that another program encrypted it with."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cms.grants.messages import Place
from cms.remote import Remote

# The one format that may have its sign-in in the keyring, under the mail address.
NAMED = "oama"


def whereabouts(place: str, source: str) -> str:
    """Return the absolute path of a file, since the daemon has another current folder; or the name of an entry."""
    if source == NAMED and "/" not in place and not Path(place).exists():
        return place
    # pathlib would resolve links, and the message would name another file.
    return os.path.abspath(place)  # noqa: PTH100 - as above


def ask_password(question: str) -> str:
    """Return what is typed without showing it; a line of the standard input where that is no terminal."""
    if sys.stdin.isatty():
        return getpass.getpass(f"{question}: ")
    return sys.stdin.readline().rstrip("\n")


def bring_in(remote: Remote, user: str, place: Place, ask: Callable[[str], str] = ask_password) -> dict[str, Any]:
    """Import over a connection to the daemon; return how it ended."""
    event = remote.ask("import", user=user, path=place.path, source=place.source, entry=place.entry)
    if event.get("event") != "password":
        return event
    password = ask(f"{event.get('message')}; its password")
    if not password:
        return {"ok": False, "message": "no password, no import", "hint": "nothing was changed"}
    remote.send({"password": password})
    return remote.receive()
