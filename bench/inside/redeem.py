"""Redeems refresh tokens at the sandbox as fast as that goes: what a cold start needs at least. Prints seconds, and CPU.

    python redeem.py plain|msal AUTHORITY CA_FILE CLIENT_ID SCOPE

Standard input is JSON, a list of refresh tokens. `plain` sends the bare requests: what the sandbox needs alone. `msal` has
MSAL send them, and stores nothing.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import threading
import time
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

# As many as cms's worker has threads, each with its own.
_CONNECTIONS = 16


def plain(authority: str, ca_file: str, client_id: str, scope: str) -> Callable[[str], bool]:
    """Return what redeems a token over one connection; it says whether that went well."""
    where, context = urlsplit(authority), ssl.create_default_context(cafile=ca_file)
    connection = http.client.HTTPSConnection(where.hostname or "", where.port, context=context)
    fields = {
        "grant_type": "refresh_token",
        "client_info": "1",
        "client_id": client_id,
        "scope": f"{scope} offline_access",
    }
    head = {"Content-Type": "application/x-www-form-urlencoded"}

    def redeem(token: str) -> bool:
        connection.request("POST", "/common/oauth2/v2.0/token", urlencode({**fields, "refresh_token": token}), head)
        with connection.getresponse() as reply:
            reply.read()
        return reply.status == http.client.OK

    return redeem


def by_msal(authority: str, ca_file: str, client_id: str, scope: str) -> Callable[[str], bool]:
    """Return the same of MSAL's."""
    import msal  # noqa: PLC0415 - the other one does without
    import requests  # noqa: PLC0415 - as above

    session = requests.Session()
    session.verify = ca_file
    session.trust_env = False
    place = f"{authority}/common"
    app = msal.PublicClientApplication(client_id, authority=place, instance_discovery=False, http_client=session)

    def redeem(token: str) -> bool:
        result = app.acquire_token_by_refresh_token(token, [scope])
        # What is in it would slow down the next one.
        app.token_cache._cache.clear()  # noqa: SLF001 - it has no other way
        return "access_token" in result

    return redeem


def main() -> int:
    """Redeem each token once."""
    kind, *facts = sys.argv[1:]
    tokens, redeemed = json.load(sys.stdin), list[str]()
    redeemers = [(by_msal if kind == "msal" else plain)(*facts) for _ in range(_CONNECTIONS)]

    def work(first: int) -> None:
        redeemed.extend(token for token in tokens[first::_CONNECTIONS] if redeemers[first](token))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(_CONNECTIONS)]
    begun, used = time.monotonic(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(time.monotonic() - begun, time.process_time() - used)
    return 0 if len(redeemed) == len(tokens) else 1


if __name__ == "__main__":
    sys.exit(main())
