"""The status of many accounts as a table: one line an account, the worst first, and each cause once.

From the object that `cms status --json` prints, as in status_text.py. Accounts that share a sign-in stand together, because
they fail and work together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from cms.core.status_text import (
    NARROWEST,
    WIDTH,
    Document,
    daemon_lines,
    error_label,
    error_text,
    life_left,
    name,
    orphan_lines,
    protocols,
    until,
    warning_of_memory,
    wrapped,
)
from cms.core.status_text import as_text as in_full
from cms.core.words import NAMELESS, WORST_FIRST
from cms_oauth.moves import cms, of_anyone
from cms_oauth.text import printable

# As many accounts fit a screen with everything about them. More are a table.
MOST_IN_FULL = 3

# So many accounts are named where a cause is told. The table marks all of them.
MOST_NAMED = 8

_GAP = "  "
_COLUMNS = ("ACCOUNT", "STATE", "PROTOCOLS", "TOKEN", "NEXT REFRESH")
_ACCOUNT, _STATE, _PROTOCOLS, _TOKEN, _NEXT = range(len(_COLUMNS))
# What a narrow terminal does without, first to last. The account and its state always stay.
_DISPENSABLE = (_PROTOCOLS, _NEXT, _TOKEN)
# Less of an account's name tells it from no other.
_LEAST_NAME = 8

# The states that need no attention by themselves.
_QUIET = ("starting", "renewing", "ok")

# How a cause says it that many accounts have.
_SIGN_IN = f"`{cms('login', 'USER')}`"

_FOOTER = "`cms status USER` shows everything about one account"


def as_text(document: Document, width: int | None = None, *, full: bool = False) -> str:
    """Return the status for a terminal of this width, None for what is no terminal. Ends with a newline.

    Everything about each account if there are few of them, or if `full` is True; else the table.
    """
    if full or len(document["accounts"]) <= MOST_IN_FULL:
        return in_full(document, width or WIDTH)
    narrow = max(NARROWEST, min(width or WIDTH, WIDTH))
    accounts, orphans = document["accounts"], document.get("orphans", ())
    blocks = [
        *([daemon_lines(document["daemon"], narrow)] if "daemon" in document else []),
        *warning_of_memory(accounts, narrow),
        *(_cause(each, narrow) for each in causes(accounts)),
        "\n".join(line for line, _ in table(accounts, width)),
        f"{summary(accounts)}\n{_FOOTER}",
        *([orphan_lines(orphans, narrow)] if orphans else []),
    ]
    return "\n\n".join(blocks) + "\n"


def problems_only(document: Document) -> Document:
    """Return the status of the accounts with a problem: those that `cms status --check` would exit with 1 or 2 for."""
    # A daemon that was not restarted after an upgrade says nothing of it.
    return {**document, "accounts": [each for each in document["accounts"] if each.get("severity", 1)]}


def summary(accounts: Sequence[Document]) -> str:
    """Return how many accounts are in each state, the worst first. An account with several tokens counts by its worst."""
    worst = dict[tuple[str, str], Document]()
    for account in sorted(accounts, key=_order):
        worst.setdefault((_grant(account), account["user"]), account)
    counts = Counter(printable(account["state"]) for account in worst.values())
    count = "1 account" if len(worst) == 1 else f"{len(worst)} accounts"
    return f"{count}: {', '.join(f'{number} {state}' for state, number in counts.items())}"


def table(accounts: Sequence[Document], width: int | None = None) -> Iterator[tuple[str, Document | None]]:
    """Yield the lines of the table with the account that each is about, None for a heading. Each fits the width."""
    groups = _groups(accounts)
    rows = [(_cells(account, shared=len(_users(group)) > 1), account) for group in groups for account in group]
    lengths = [max(map(len, column)) for column in zip(_COLUMNS, *(cells for cells, _ in rows), strict=True)]
    columns = _columns(lengths, width)
    yield _aligned(_COLUMNS, lengths, columns), None
    lines = iter(rows)
    for group in groups:
        if (users := len(_users(group))) > 1:
            yield _cut(f"one sign-in, {printable(group[0].get('who') or NAMELESS)}: {users} accounts", width), None
        for _ in group:
            cells, account = next(lines)
            yield _aligned(cells, lengths, columns), account


def causes(accounts: Sequence[Document]) -> list[tuple[str, list[Document]]]:
    """Return what is wrong, once, with the accounts that it concerns; the worst first.

    A cause is the state, the last error, the warning and the next move, one on each line. Where accounts differ by their
    name alone, USER stands for it; not for the name of an account whose sign-in others share: their next move names it.
    """
    found = dict[str, list[Document]]()
    shared = {_grant(group[0]) for group in _groups(accounts) if len(_users(group)) > 1}
    for account in sorted(accounts, key=_order):
        if any(text for _, text in _wrong(account)):
            signs_in = _grant(account) in shared and account["user"] == account.get("who")
            told = _told(account)
            found.setdefault(told if signs_in else of_anyone(told, printable(account["user"])), []).append(account)
    return [(text if len(_users(group)) > 1 else _told(group[0]), group) for text, group in found.items()]


def _cause(cause: tuple[str, list[Document]], width: int) -> str:
    told, group = cause
    state, *lines = told.split("\n")
    users = _users(group)
    head = f"{printable(users[0])}: {state}" if len(users) == 1 else f"{len(users)} accounts: {state}"
    said = [wrapped(label, text, width) for label, _, text in (line.partition("\t") for line in lines)]
    if len(users) > 1:
        said += [wrapped("or, for all", f"`{cms('login', '--all')}`", width)] if _SIGN_IN in told else []
        said.append(wrapped("accounts", some(users), width))
    return "\n".join([head, *said])


def _told(account: Document) -> str:
    """Return a cause as lines: the state, then label, tab and text. A text from outside has neither a tab nor a break."""
    said = [f"{label}\t{printable(text)}" for label, text in _wrong(account) if text]
    return "\n".join([printable(account["state"]), *said])


def _wrong(account: Document) -> Iterator[tuple[str, str]]:
    problem = account["problem"]
    if problem:
        yield error_label(problem), error_text(problem)
    yield "warning", account["warning"]
    yield "next move", account["next_move"]


def some(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """Return the first of these names, and how many there are besides."""
    more = len(names) - most
    return ", ".join([*names[:most], *([f"{more} more"] if more > 0 else [])])


def _order(account: Document) -> tuple[int, int, str]:
    state = account["state"]
    # A newer daemon may have a state that is not in the list. Nobody here knows how bad it is, so it comes first.
    known = WORST_FIRST.index(state) if state in WORST_FIRST else -1
    return -account.get("severity", 0), known, account["user"]


def _groups(accounts: Sequence[Document]) -> list[list[Document]]:
    """Return the accounts of each sign-in, the worst first."""
    found = dict[str, list[Document]]()
    for account in sorted(accounts, key=_order):
        found.setdefault(_grant(account), []).append(account)
    return list(found.values())


def _grant(account: Document) -> str:
    # A daemon that was not restarted after an upgrade does not say which sign-in it is.
    return str(account.get("grant") or account["user"])


def _users(accounts: Sequence[Document]) -> list[str]:
    return list(dict.fromkeys(map(name, accounts)))


def _cells(account: Document, *, shared: bool) -> tuple[str, ...]:
    """Return an account's line, cell by cell. Accounts that share a sign-in are indented below its heading."""
    who = f"{'  ' if shared else ''}{printable(name(account))}"
    return who, _state(account), printable(protocols(account)), life_left(account), _next(account)


def _state(account: Document) -> str:
    state = printable(account["state"])
    return f"{state}, warning" if state in _QUIET and account["warning"] else state


def _next(account: Document) -> str:
    token, problem = account["token"], account["problem"]
    if problem and problem["retry_in"] is not None:
        return f"next try {until(problem['retry_in'])}"
    return until(token["refresh_in"]) if token and token["refresh_in"] is not None else ""


def _columns(lengths: list[int], width: int | None) -> list[int]:
    """Return the columns that fit; if even the last two do not, make the accounts' column shorter."""
    columns = list(range(len(_COLUMNS)))
    if width is None:
        return columns
    dispensable = iter(_DISPENSABLE)
    while (over := sum(lengths[each] + len(_GAP) for each in columns) - len(_GAP) - width) > 0:
        if (column := next(dispensable, None)) is None:
            lengths[_ACCOUNT] = max(_LEAST_NAME, lengths[_ACCOUNT] - over)
            break
        columns.remove(column)
    return columns


def _aligned(cells: Sequence[str], lengths: Sequence[int], columns: Sequence[int]) -> str:
    return _GAP.join(_cut(cells[each], lengths[each]).ljust(lengths[each]) for each in columns).rstrip()


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"
