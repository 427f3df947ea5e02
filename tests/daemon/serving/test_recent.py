"""The last requests: kept for the person who runs cms, limited in number, and without a secret."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from support.whole_daemon import ANN, WholeDaemon, on_moving_clock, until, whole_daemon

from cms.daemon.serving.recent import MAX_RECENT, Asked, Recent


def test_the_newest_comes_first() -> None:
    """Who asked for what, with what outcome, and how long ago."""
    recent = Recent(lambda: 160.0)
    recent.append(Asked(100.0, 1000, 7, "a@example.test", "SMTP", "token", "granted"))
    recent.append(Asked(130.5, 1001, 8, "", "", "xoauth2", "denied"))

    assert [
        {
            "uid": 1001,
            "pid": 8,
            "user": "",
            "protocol": "",
            "form": "xoauth2",
            "outcome": "denied",
            "age": 29,
            "at": 4970,
        },
        {
            "uid": 1000,
            "pid": 7,
            "user": "a@example.test",
            "protocol": "SMTP",
            "form": "token",
            "outcome": "granted",
            "age": 60,
            "at": 4940,
        },
    ] == recent.as_data(5000.0)


def test_no_more_than_so_many_are_kept() -> None:
    """A daemon that runs for months holds no more than one that just began."""
    recent = Recent(lambda: 1.0)
    for number in range(MAX_RECENT + 5):
        recent.append(Asked(1.0, 0, number, "", "SMTP", "token", "granted"))
    kept = recent.as_data(1.0)

    assert (MAX_RECENT, MAX_RECENT + 4) == (len(kept), kept[0]["pid"])


@on_moving_clock
async def test_status_tells_the_last_requests(tmp_path: Path) -> None:
    """Granted and refused, of every socket, and never with a token in it."""
    async with whole_daemon(tmp_path) as daemon:
        token = await daemon.token(ANN)
        await daemon.raw(b"SMTP nobody@example.test\n")
        requests = await until(lambda: two(daemon), "two requests in the status")

    assert [("unknown-account", "nobody@example.test"), ("granted", ANN)] == [
        (each["outcome"], each["user"]) for each in requests
    ]
    assert (os.getuid(), os.getpid()) == (requests[0]["uid"], requests[0]["pid"])
    assert token not in json.dumps(requests)


def two(daemon: WholeDaemon) -> list[dict[str, Any]]:
    """Return what the status says was asked, once there are two requests: a client has its reply before they are noted."""
    requests: list[dict[str, Any]] = daemon.app.commands.status().extra["json"]["requests"]
    return requests if len(requests) == 2 else []
