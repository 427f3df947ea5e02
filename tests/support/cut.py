"""A proxy on loopback between a host of a fleet and the database, which cuts a connection at an exact statement."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
from typing import Any

from support.postgres import Cluster


class Cut:
    """A proxy on loopback between a host and the server, which can cut a connection at a COMMIT.

    Each statement of cms is one message with its answer, so a cut is before the question arrives, or before its answer does.
    `before` and `after` are texts in the statements that are cut: once each.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.before: list[bytes] = []
        self.after: list[bytes] = []
        self.cuts = 0
        self.refuses = False
        cut = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                cut.serve(self.request, cluster.port)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Say nothing: connections break off in these tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def serve(self, client: Any, port: int) -> None:
        """Copy both ways until an end closes, or a cut is due."""
        if self.refuses:
            return
        with socket.create_connection(("127.0.0.1", port)) as server:
            waits = False
            while True:
                for source in select.select([client, server], [], [])[0]:
                    piece = source.recv(65536)
                    if not piece:
                        return
                    if source is server:
                        if waits:
                            # The answer has come, so what was asked is done: it is lost on the way.
                            self.cuts += 1
                            return
                        client.sendall(piece)
                        continue
                    if self._due(self.before, piece):
                        self.cuts += 1
                        return
                    waits = self._due(self.after, piece)
                    server.sendall(piece)

    @staticmethod
    def _due(texts: list[bytes], piece: bytes) -> bool:
        for text in texts:
            if text in piece:
                texts.remove(text)
                return True
        return False

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
