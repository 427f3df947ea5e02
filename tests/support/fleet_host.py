"""A host of a fleet as a process, which ends itself at an exact point of a redemption, as SIGKILL or as SIGSTOP would.

Its argument is JSON: the fleet, the folder, the provider's socket, the terms, the point and the signal. It prints the outcome.
With `grants`, it renews the tokens of so many, again and again, until it is killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from cms.core.accounts import Fleet, Source
from cms.core.lifecycle import Granted
from cms.grants import service
from cms.grants.fleet import statements
from cms.grants.fleet.claim import Terms
from cms.grants.fleet.connection import Wire
from cms.grants.network.deadline import EXCHANGE_SECONDS, may_send
from cms.grants.vault.entry_file import EntryFile
from support.fleet import Host, ask_counter, grant_of, mint_of

# Where it may end: the crash table's rows.
POINTS = (
    "before the claim",
    "after the claim",
    "after sending",
    "after the answer",
    "after the journal",
    "after the commit",
)


def renew_for_ever(host: Host, number: int) -> NoReturn:
    """Ask for the tokens of so many grants, in any order, as a daemon does whenever one of its tokens is due."""
    # It has others to ask for, while another host has the claim.
    service.ELSEWHERE_SECONDS = 0.5
    grants = [grant_of(each) for each in range(number)]
    held, due = dict.fromkeys(grants, ""), dict.fromkeys(grants, 0.0)
    while True:
        grant = random.choice(grants)
        if due[grant] > time.monotonic():
            time.sleep(0.01)
            continue
        outcome = host.ask(held[grant], grant=grant)
        if isinstance(outcome, Granted):
            held[grant], due[grant] = mint_of(outcome.secret), time.monotonic() + (outcome.refresh_in or 0.0)


def watch(end: Callable[[str], None]) -> None:
    """Have `end` called at the points that are inside of the store."""
    run, write = Wire.run, EntryFile.write

    def watched_run(self: Wire, statement: str, **values: object) -> list[tuple[Any, ...]]:
        if statement == statements.CLAIM:
            end("before the claim")
        rows = run(self, statement, **values)
        if statement == statements.CLAIM:
            end("after the claim")
        if statement == statements.STORE:
            end("after the commit")
        return rows

    def watched_write(self: EntryFile, raw: bytes, *, keep_aside: bool, read_back: bool = False) -> None:
        write(self, raw, keep_aside=keep_aside, read_back=read_back)
        end("after the journal")

    Wire.run, EntryFile.write = watched_run, watched_write  # type: ignore[method-assign]  # the points are inside


def main() -> None:
    told = json.loads(sys.argv[1])

    def end(at: str) -> None:
        if at == told["point"]:
            os.kill(os.getpid(), signal.Signals[told["signal"]])

    watch(end)

    def exchange(token: str) -> dict[str, Any]:
        # As every request of the worker's is checked; most claims of these tests are too short for any.
        if told["terms"]["lease"] > EXCHANGE_SECONDS and not may_send():
            return {}
        answer = ask_counter(told["provider"], token, lambda: end("after sending"))
        end("after the answer")
        return answer

    sources = {name: tuple(Source("file", (each,)) for each in told[name]) for name in ("keys", "token_keys")}
    fleet = Fleet(told["dsn"], sources["token_keys"], sources["keys"], schema=told["schema"])
    host = Host(fleet, Path(told["folder"]), exchange, terms=Terms(**told["terms"]))
    if told["grants"]:
        renew_for_ever(host, told["grants"])
    outcome = host.ask(told["held"])
    print(json.dumps({"secret": outcome.secret} if isinstance(outcome, Granted) else {"kind": outcome.trouble.kind}))


if __name__ == "__main__":
    main()
