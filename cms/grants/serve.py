"""Runs the grant worker's main loop, with the vault and the provider that the daemon's first message names."""

from __future__ import annotations

import os
import socket
import sys

from cms.grants.bugs import unexpected
from cms.grants.dispatcher import Dispatcher
from cms.grants.messages import Open
from cms.grants.providers import Microsoft, Providers, TokenProvider
from cms.grants.service import Service
from cms.grants.vault import open_vault


def crash(_kind: type[BaseException], error: BaseException, _trace: object) -> None:
    """Report a crash like any other bug: Python's report would quote the exception, which may contain a secret."""
    unexpected(error)


def open_service(opened: Open) -> Service:
    """Return the service that answers the questions."""
    return Service(
        open_vault(opened), Providers(lambda: _entra(opened), lambda: _oauth2(opened)), persist=opened.persist
    )


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
