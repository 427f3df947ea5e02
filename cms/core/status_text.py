"""The status as text, from the object that `cms status --json` prints.

The daemon sends that object, and the client makes the text: everything about each account here, one line an account in
status_table.py.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cms.core.words import MEMORY_WARNING, NAMELESS, NOT_SHARED, duration, stored_sign_in
from cms_oauth.text import printable

# Longer lines are hard to read, and narrower ones leave no room beside the labels.
WIDTH = 100
NARROWEST = 40
_LABEL = 14

# Shown instead of the sign-in for an account that no person signs in to.
_WITHOUT = {
    "app": "none needed: an application requests each token itself",
    "managed-identity": "none needed: this machine's own identity in Azure",
}

# A command in a sentence, and what stands for its spaces while lines are broken. Printable text has no such character.
_COMMAND = re.compile("`[^`]*`")
_NO_BREAK = "\0"

_ORPHANS_MOVE = "`cms prune` deletes them; or put the account back into the configuration to use its sign-in again"

# A JSON object: the whole status, the daemon, an account or its problem.
Document = Mapping[str, Any]


def as_text(document: Document, width: int = WIDTH) -> str:
    """Return the status for a terminal: the daemon's facts, then a block of lines for each row. Ends with a newline.

    `width` is the terminal's, in columns.
    """
    width = max(NARROWEST, min(width, WIDTH))
    accounts, orphans = document["accounts"], document.get("orphans", ())
    blocks = [daemon_lines(document["daemon"], width)] if "daemon" in document else []
    blocks += warning_of_memory(accounts, width)
    blocks += [_block(account, width) for account in accounts] or ["no accounts are configured"]
    blocks += [orphan_lines(orphans, width)] if orphans else []
    return "\n\n".join(blocks) + "\n"


def name(account: Document) -> str:
    """Return the account's user, or `NAMELESS` if it is not known yet."""
    return account["user"] or NAMELESS


def protocols(account: Document) -> str:
    """Return the protocols that the account's token opens."""
    return ", ".join(account["protocols"]) or "none"


def life_left(account: Document) -> str:
    """Return how long the token that is held can still be used."""
    token = account["token"]
    if not token:
        return "none"
    return f"{duration(token['left'])} left" if account["usable"] else "NOT USABLE any more"


def until(seconds: int) -> str:
    """Return a number of seconds from now as text: "in 5 min", "now"."""
    return f"in {duration(seconds)}" if seconds else "now"


def facts(account: Document) -> Iterator[tuple[str, str]]:
    """Yield what to show for an account, as (label, text)."""
    problem = account["problem"]
    said = (
        ("protocols", protocols(account)),
        ("mailboxes", _mailboxes(account)),
        ("token", _token(account)),
        *(_problem(problem) if problem else ()),
        ("sign-in", "; ".join(filter(None, (_kept(account), _given(account))))),
        ("last taken", _taken(account.get("last_taken"))),
        ("warning", account["warning"]),
        ("next move", account["next_move"]),
    )
    yield from ((label, text) for label, text in said if text)


def warning_of_memory(accounts: Sequence[Document], width: int) -> list[str]:
    """Return a paragraph if sign-ins are in memory only, else nothing."""
    lost = any(account["persisted"] is False for account in accounts)
    return [wrapped("WARNING", MEMORY_WARNING, width)] if lost else []


def daemon_lines(daemon: Document, width: int) -> str:
    """Return what the daemon says of itself."""
    up = duration(daemon["uptime"])
    first = f"cms {daemon['version']}, process {daemon['pid']}, up {up}, configuration {daemon['config']}"
    lines = [printable(first)]
    lines += [wrapped("socket", path, width) for path in daemon["sockets"]]
    lines += [wrapped("token file", path, width) for path in daemon["files"]]
    lines += [wrapped("audit", each, width) for each in _audit(daemon.get("audit") or {})]
    if (fleet := daemon.get("fleet")) and fleet["why"]:
        away = f"the database could not be asked for {duration(fleet['away'])}: {fleet['why']}; held tokens are served"
        lines.append(wrapped("fleet", away, width))
    if left_out := daemon.get("log_left_out"):
        lines.append(wrapped("log", f"{left_out} lines were left out: more came than it may have in a day", width))
    # MEMORY_WARNING has its own paragraph.
    lines += [wrapped("warning", each, width) for each in daemon["warnings"] if each != MEMORY_WARNING]
    return "\n".join(lines)


def _audit(audit: Document) -> Iterator[str]:
    """Yield where records of requests are written, and what is not there."""
    yield from audit.get("places", ())
    if counted := audit.get("counted"):
        yield f"{counted} requests were only counted: there were too many"
    if lost := audit.get("lost"):
        yield f"{lost} records are lost{': ' if audit['trouble'] else ''}{audit['trouble']}"
    elif audit.get("trouble"):
        yield f"NOT WRITTEN: {audit['trouble']}"


def orphan_lines(orphans: Sequence[Document], width: int) -> str:
    """Return the stored sign-ins that belong to no account, and what to do with them."""
    lines = [wrapped("", _orphan(each), width) for each in orphans]
    return "\n".join(["stored sign-ins without an account:", *lines, wrapped("next move", _ORPHANS_MOVE, width)])


def _orphan(kept: Document) -> str:
    return stored_sign_in(kept["key"], kept["authority"], kept["client_id"], kept["login"] or kept["who"])


def _block(account: Document, width: int) -> str:
    head = printable(f"{name(account)}{_whose(account.get('provider', ''))}: {account['state']}")
    return "\n".join([head, *(wrapped(label, text, width) for label, text in facts(account))])


def _whose(provider: str) -> str:
    """Return the words that name an account's provider, "" for Microsoft's. An earlier daemon does not send it."""
    if provider in ("", "microsoft"):
        return ""
    # Imported here, because most accounts are Microsoft's, and `cms status` is to start fast.
    from cms_oauth.providers import titled  # noqa: PLC0415

    return titled(provider)


def _mailboxes(account: Document) -> str:
    """Return how many mailboxes are open, if each has its own token. An earlier daemon does not send it."""
    count = account.get("mailboxes")
    return "" if count is None else f"{count} open, {account['max_mailboxes']} at most"


def _token(account: Document) -> str:
    token = account["token"]
    if not token:
        return life_left(account)
    parts = [f"{duration(token['age'])} old", life_left(account)]
    if token["refresh_in"] is not None:
        parts.append(f"next refresh {until(token['refresh_in'])}")
    return ", ".join(parts)


def _taken(asked: Document | None) -> str:
    """Return who had the token last. A program's name is what it says itself."""
    if not asked:
        return ""
    name = "" if asked["program"] == "-" else f"{asked['program']}, "
    return f"{asked['protocol']}, {duration(asked['age'])} ago, by {name}uid {asked['uid']}, process {asked['pid']}"


def error_label(problem: Document) -> str:
    """Return the label of the last error: "reason" for a missing sign-in, which is not an error."""
    return "reason" if problem["kind"] in ("no-sign-in", "signed-out") else "last error"


def error_text(problem: Document) -> str:
    """Return the last error, with the provider's word for it once."""
    # A daemon from before an upgrade does not send it.
    error, reason = problem["message"], problem.get("reason", "")
    return error if reason in error else f"{reason}: {error}"


def _problem(problem: Document) -> Iterator[tuple[str, str]]:
    lasts = duration(problem["lasts"])
    yield error_label(problem), error_text(problem)
    yield "correlation", problem["correlation_id"]
    tries, retry_in = problem["tries"], problem["retry_in"]
    if retry_in is None:
        yield "since", f"{lasts} ago"
    elif not tries:
        yield "next try", f"{until(retry_in)}; refused for {lasts}"
    else:
        yield "next try", f"{until(retry_in)}, after {'1 try' if tries == 1 else f'{tries} tries'} in {lasts}"


def _kept(account: Document) -> str:
    """Return where the sign-in is stored."""
    if account["sign_in"] in _WITHOUT:
        return _WITHOUT[account["sign_in"]]
    if account["persisted"] is None:
        return ""
    if not account["persisted"]:
        return "MEMORY ONLY: lost when cms or its worker ends"
    # A daemon from before an upgrade does not send it.
    if account.get("shared") is False:
        return NOT_SHARED
    if account.get("shared"):
        return f"shared by the fleet; token fetched by {account['minted_by'] or 'this host'}"
    return f"saved, encrypted; key from {account['key_from']}" if account["key_from"] else "saved, encrypted"


def _given(account: Document) -> str:
    """Return when the sign-in was given, and when the next one is expected."""
    if account["signed_in_age"] is None:
        return ""
    given, expected = f"given {duration(account['signed_in_age'])} ago", account["forecast"]
    if not account.get("who_checked", True):
        given = f"{given}, by whom the provider does not say"
    if expected is None or account["ends_in"] is None:
        return given
    return f"{given}; next expected {until(account['ends_in'])} ({expected['reason']}; {expected['certainty']})"


def wrapped(label: str, text: str, width: int) -> str:
    """Return a labelled paragraph that fits the terminal."""
    return filled(text, width, f"  {label:<{_LABEL}}", " " * (_LABEL + 2))


def filled(text: str, width: int, first: str, others: str) -> str:
    """Return a text in lines of this width; `first` begins its first line, and `others` the rest.

    Commands, addresses and paths are never broken: people copy them.
    """
    whole = _COMMAND.sub(lambda found: found[0].replace(" ", _NO_BREAK), printable(text))
    lines = textwrap.fill(
        whole, width, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
    return lines.replace(_NO_BREAK, " ")
