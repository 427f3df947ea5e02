"""Runs the grant worker's main loop, with the vault and the provider that the daemon's first message names."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from cms.grants.bugs import unexpected
from cms.grants.dispatcher import Dispatcher
from cms.grants.messages import Open
from cms.grants.providers import Microsoft, Providers, TokenProvider
from cms.grants.service import Service
from cms.grants.stores import SharedStore
from cms.grants.vault import open_vault


def crash(_kind: type[BaseException], error: BaseException, _trace: object) -> None:
    """Report a crash like any other bug: Python's report would quote the exception, which may contain a secret."""
    unexpected(error)


def open_service(opened: Open) -> Service:
    """Return the service that answers the questions."""
    providers = Providers(lambda: _entra(opened), lambda: _oauth2(opened))
    return Service(open_vault(opened), providers, persist=opened.persist, shared=_shared(opened))


def _shared(opened: Open) -> SharedStore | None:
    if opened.fleet is None:
        return None
    from cms.grants.fleet.store import FleetStore  # noqa: PLC0415 - the database's library, which only a fleet needs

    return FleetStore(opened.fleet, Path(opened.state_folder))


def _entra(opened: Open) -> Microsoft:
    from cms.grants.entra.client import Entra  # noqa: PLC0415 - MSAL, which only Microsoft's accounts need

    return Entra(opened.ca, opened.proxy)


def _oauth2(opened: Open) -> TokenProvider:
    from cms.grants.oauth2.client import OAuth2  # noqa: PLC0415 - which only other accounts need

    return OAuth2(opened.ca, opened.proxy)


def serve() -> int:
    """Answer the questions that come at the standard input; return the exit status."""
    sys.excepthook = crash
    try:
        sock = socket.socket(fileno=0)
    except OSError:
        print("error: this program is started by cms, with a socket as its standard input", file=sys.stderr)
        return os.EX_USAGE
    return Dispatcher(sock, open_service).run()
