"""Renews sign-ins in a store as a worker does, without a provider: read, claim, store the successor. Prints JSON.

    python refresh.py FOLDER DSN GRANTS THREADS renew|take

DSN is a fleet's database, "" for the files of one host. `take` has another host take the published tokens instead. Sign-ins
that the store does not have are made first, which is not measured. A sign-in and a token have the size of Microsoft's.
"""

from __future__ import annotations

import json
import secrets
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

from cms.core.accounts import Fleet, Grant, Source
from cms.core.lifecycle import Granted
from cms.grants.vault.entry_file import Entry
from cms.grants.vault.keys import Keys
from cms.grants.vault.store import Vault

_SCOPES = ("https://outlook.office.com/SMTP.Send",)
_LIFE = 3600.0

# In characters, as Microsoft's are.
_REFRESH, _ACCESS = 1500, 2200


def store_of(folder: Path, dsn: str) -> Any:
    """Return the store. Its keys are beside its folder, for all hosts."""
    if not dsn:
        return Vault(str(folder), Keys(Source("file", (str(folder.parent / "vault.key"),))))
    from cms.grants.fleet.store import FleetStore  # noqa: PLC0415 - the files are measured without it

    tokens, sign_ins = (Source("file", (str(folder.parent / name),)) for name in ("tokens.key", "fleet.key"))
    return FleetStore(Fleet(dsn, (tokens,), (sign_ins,), listen=False), folder)


def grants(number: int) -> list[Grant]:
    """Return so many sign-ins."""
    return [
        Grant("https://login.example/common", "client", f"user{each}@example.com", (_SCOPES,)) for each in range(number)
    ]


def entry() -> Entry:
    """Return what a redemption would have given."""
    return Entry(secrets.token_hex(_REFRESH // 2), "home", "user@example.com", 1_795_000_000.0, redeemed=time.time())


def token() -> Granted:
    """Return the same for the access token."""
    return Granted(secrets.token_hex(_ACCESS // 2), time.clock_gettime(time.CLOCK_BOOTTIME), _LIFE, _SCOPES)


def sign_in(store: Any, grant: Grant) -> None:
    """Make a sign-in, if there is none."""
    with store.hold(grant, _SCOPES) as held:
        if held.inspect() is None:
            held.prepare()
            held.store(entry(), token())


def renew(store: Any, grant: Grant) -> None:
    """Do what a worker does around a redemption."""
    with store.hold(grant, _SCOPES) as held:
        assert held.read(), "it is signed in"
        held.prepare()
        held.claim()
        held.store(entry(), token())


def take(store: Any, grant: Grant) -> None:
    """Do what a worker does that finds the token of another host."""
    with store.hold(grant, _SCOPES) as held:
        assert held.read(), "it is signed in"
        assert held.minted(""), "a token is published"


def main() -> int:
    """Measure each grant once."""
    folder, dsn, number, threads, what = sys.argv[1:]
    store, all_of_them, took = store_of(Path(folder), dsn), grants(int(number)), list[float]()
    if what == "renew":
        for each in all_of_them:
            sign_in(store, each)
    work = renew if what == "renew" else take
    # Connections are made, and keys read.
    work(store, all_of_them[0])

    def some(first: int) -> None:
        for grant in all_of_them[first :: int(threads)]:
            begun = time.monotonic()
            work(store, grant)
            took.append(time.monotonic() - begun)

    running = [threading.Thread(target=some, args=(first,)) for first in range(int(threads))]
    begun, used = time.monotonic(), time.process_time()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    wall, cpu = time.monotonic() - begun, time.process_time() - used
    whole = len(took) == len(all_of_them)
    late = statistics.quantiles(took, n=100)[-1] if len(took) > 1 else took[0]
    print(json.dumps({"wall": wall, "cpu": cpu, "p50": statistics.median(took), "p99": late, "count": len(took)}))
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
