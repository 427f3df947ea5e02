"""Redeems refresh tokens as fast as the sandbox can: what it needs alone. Prints the seconds.

    python redeem.py AUTHORITY CA_FILE CLIENT_ID SCOPE

Standard input is JSON, a list of refresh tokens. As many connections as cms has, each of which is kept.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time
from urllib.parse import quote, urlsplit

_CONNECTIONS = 16


def main() -> int:
    """Redeem each token once."""
    authority, ca_file, client_id, scope = sys.argv[1:]
    tokens: list[str] = json.load(sys.stdin)
    where, context = urlsplit(authority), ssl.create_default_context(cafile=ca_file)
    form = f"grant_type=refresh_token&client_info=1&client_id={client_id}&scope={quote(scope)}&refresh_token="
    wrong: list[bytes] = []

    def work(own: list[str]) -> None:
        with (
            socket.create_connection((str(where.hostname), int(where.port or 0))) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as sock,
            sock.makefile("rb") as replies,
        ):
            for token in own:
                head = (
                    f"POST /common/oauth2/v2.0/token HTTP/1.1\r\nHost: {where.netloc}\r\n"
                    f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(form) + len(token)}\r\n\r\n"
                )
                sock.sendall((head + form + token).encode())
                status, size = replies.readline(), 0
                while (line := replies.readline()) != b"\r\n":
                    name, _, value = line.partition(b":")
                    size = int(value) if name.lower() == b"content-length" else size
                body = replies.read(size)
                if b" 200 " not in status:
                    wrong.append(body)

    threads = [threading.Thread(target=work, args=(tokens[first::_CONNECTIONS],)) for first in range(_CONNECTIONS)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(time.monotonic() - begun)
    if wrong:
        print(f"{len(wrong)} were refused: {wrong[0].decode()}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
