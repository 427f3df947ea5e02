"""The status as one line for monitoring, with its exit code: `cms status --check`, as Nagios and Icinga read it.

Their form is "CMS WARNING - what is wrong | numbers": the first line of the output is shown and mailed, and what is behind
the bar are numbers for graphs. Each cause is told once, with the accounts that it concerns, the worst cause first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from cms.core.status import STATES, Concern, StatusRow, concerns, exit_code
from cms.core.words import NAMELESS, UNKNOWN, WORST_FIRST, plugin_line
from cms_oauth.moves import of_anyone
from cms_oauth.text import printable

# Nagios reads 4,096 bytes of a plugin's output and NRPE may pass on 1,024; mails and pagers show less. The numbers take
# about 250.
MAX_CAUSES = 4
MAX_CAUSE = 160
MAX_NAMES = 3


def check_line(rows: Sequence[StatusRow], *, memory_chosen: bool = False, troubles: Sequence[str] = ()) -> str:
    """Return what `cms status --check` prints."""
    if not rows:
        return plugin_line(UNKNOWN, "no accounts are configured")
    users = dict[str, set[str]]()
    for row in rows:
        users.setdefault(row.grant, set()).add(row.user)
    causes: dict[tuple[int, str], list[tuple[StatusRow, Concern]]] = {}
    # The account whose sign-in ends first stands for the others.
    for row in sorted(rows, key=lambda each: each.ends_in or 0):
        for each in concerns(row, memory_chosen=memory_chosen):
            # Where accounts share a sign-in, the account of the person who signs in keeps its name in the reason.
            signs_in = row.user == row.who and len(users[row.grant]) > 1
            named = signs_in and each.cause == of_anyone(each.reason, row.user)
            causes.setdefault((each.severity, each.reason if named else each.cause), []).append((row, each))
    worst = sorted(causes.items(), key=lambda each: (-each[0][0], -len(each[1])))
    told = [*troubles, *(_told(who) for _, who in worst)]
    if len(told) > MAX_CAUSES:
        told[MAX_CAUSES:] = [f"{len(told) - MAX_CAUSES} more causes"]
    code = exit_code(rows, memory_chosen=memory_chosen, troubles=troubles)
    return plugin_line(code, "; ".join(told) or _well(rows), numbers(rows))


def _told(who: Sequence[tuple[StatusRow, Concern]]) -> str:
    names = list(dict.fromkeys(row.user or NAMELESS for row, _ in who))
    more = [f"{len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    row, first = who[0]
    reason, move = first.reason, first.move
    if len(names) > 1:
        # Several accounts have one cause if it differs by their names alone. Where they share a sign-in, the command names
        # who signs in, for all of them.
        if row.user != row.who or len({of_anyone(each.reason, of.user) for of, each in who}) == 1:
            reason = of_anyone(reason, row.user)
        moves = {of_anyone(each.move, of.user) for of, each in who}
        move = moves.pop() if len(moves) == 1 else move
    said = f"{', '.join([*names[:MAX_NAMES], *more])}: {printable(reason, MAX_CAUSE)}"
    return f"{said} - {printable(move, MAX_CAUSE)}" if move else said


def _well(rows: Sequence[StatusRow]) -> str:
    counts = _states(rows)
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def states(accounts: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Return how many accounts are in each state, from the user and state of each row of the status.

    An account with several tokens is counted once, in its worst state; one without a name for each row.
    """
    worst, nameless = dict[str, str](), list[str]()
    for user, state in accounts:
        if user:
            worst[user] = min(worst.get(user, state), state, key=WORST_FIRST.index)
        else:
            nameless.append(state)
    counts = Counter([*worst.values(), *nameless])
    return {state: counts[state] for state in STATES}


def _states(rows: Sequence[StatusRow]) -> dict[str, int]:
    return states((row.user, row.state) for row in rows)


def numbers(rows: Sequence[StatusRow]) -> str:
    """Return the performance data: accounts in all, by state and without a usable token, and what ends first, in seconds."""
    counts = _states(rows)
    unusable = len({row.user for row in rows if not row.usable})
    found = {"accounts": str(sum(counts.values())), **{state: str(count) for state, count in counts.items()}}
    found["unusable"] = str(unusable)
    ends = {
        "token_left": [row.token.left for row in rows if row.token],
        "next_sign_in": [row.ends_in for row in rows if row.ends_in is not None],
        "certificate_left": [row.credential_ends_in for row in rows if row.credential_ends_in is not None],
    }
    found |= {name: f"{min(left)}s" for name, left in ends.items() if left}
    return " ".join(f"{name}={value}" for name, value in found.items())
