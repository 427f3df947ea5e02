"""`cms login` for several accounts: one after another, or by code for all at once.

Only a running daemon knows which accounts need a sign-in. Each sign-in is a connection of its own, as of `cms login USER`.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from cms.cli.client import Remote, understood
from cms.cli.failure import Failure
from cms.cli.login import EX_OK, NOT_SIGNED_IN, checked_prompt
from cms.cli.terminal import working
from cms.core.accounts import UNATTENDED
from cms.core.status_text import Document
from cms_oauth.text import printable

# Sign-ins by code at one time. The daemon carries out 64 commands at once, and the rest is for status and monitoring.
AT_ONCE = 40

# The states in which a person has to sign in.
_WAITING = ("sign-in-required", "signing-in")

# A code of Microsoft's has nine characters, and words for it are no longer.
_CODE = 9

Say = Callable[[str], None]


def waiting(connect: Callable[[], Remote], pattern: str) -> list[tuple[str, str]]:
    """Return an account of each sign-in that is needed, and who signs in, who may open other people's mailboxes too.

    The accounts are those that a pattern names, "" for all.
    """
    with connect() as found:
        answer = found.ask("status", **({"user": pattern} if pattern else {}))
    if not answer.get("ok"):
        raise Failure(str(answer.get("message")), str(answer.get("hint") or ""))
    with understood():
        rows: Sequence[Document] = answer["json"]["accounts"]
        if pattern and rows and all(row.get("sign_in") in UNATTENDED for row in rows):
            raise Failure(f"no person signs in to {pattern}: an application or a machine gets its tokens by itself")
        found_rows = dict[str, Document]()
        for row in rows:
            if row["state"] in _WAITING and row["user"]:
                found_rows.setdefault(str(row.get("grant") or row["user"]), row)
        return [(str(row["user"]), str(row.get("who") or row["user"])) for row in found_rows.values()]


def one_after_another(
    connect: Callable[[], Remote], pattern: str, sign_in: Callable[[Remote, str], int], say: Say
) -> int:
    """Sign in all that need it; return the exit status. One that fails keeps no other from its turn."""
    users = waiting(connect, pattern)
    ends = list[int]()
    for number, (user, who) in enumerate(users, 1):
        # On the sign-in page a person may have taken another one in the meantime.
        if number > 1 and (user, who) not in waiting(connect, pattern):
            continue
        say(f"{number} of {len(users)}: {printable(who)}")
        with connect() as found:
            ends.append(sign_in(found, user))
    return _ended(ends, say)


def by_code(connect: Callable[[], Remote], pattern: str, say: Say) -> int:
    """Show a table of codes, a line for each account that needs one, and what becomes of it; return the exit status."""
    users = waiting(connect, pattern)
    width = max((len(who) for _, who in users), default=0)
    if users:
        say(f"{'ACCOUNT':<{width}}  {'CODE':<{_CODE}}  LINK")
    with ExitStack() as stack:
        return _ended(list(_follow(users, lambda: stack.enter_context(connect()), width, say)), say)


def _follow(users: Sequence[tuple[str, str]], connect: Callable[[], Remote], width: int, say: Say) -> Iterator[int]:
    """Carry out all sign-ins, a limited number at once; yield how each ended."""
    left, running = deque(users), dict[Remote, str]()
    while left or running:
        while left and len(running) < AT_ONCE:
            found = connect()
            user, who = left.popleft()
            found.send({"command": "login", "user": user, "method": "device"})
            running[found] = printable(who)
        with working(f"waiting for {len(running) + len(left)} of {len(users)} sign-ins"):
            readable, _, _ = select.select(running, [], [])
        for found in readable:
            event = found.receive()
            while event.get("event") == "prompt":
                prompt = checked_prompt(event)
                say(
                    f"{running[found]:<{width}}  {prompt['user_code']:<{_CODE}}  {prompt['complete_url'] or prompt['url']}"
                )
                event = found.receive() if found.ready else {}
            if event:
                said = (running.pop(found), str(event.get("message") or ""), str(event.get("hint") or ""))
                say(": ".join(filter(None, said)))
                found.close()
                yield EX_OK if event.get("ok") else NOT_SIGNED_IN


def _ended(ends: Sequence[int], say: Say) -> int:
    if not ends:
        say("no account needs a sign-in")
        return EX_OK
    say(f"{ends.count(EX_OK)} of {len(ends)} signed in")
    return max(ends)
