"""Finds what is known about an error in any text: a log, a mail program's message, a browser's page. Pure.

`cms explain` shows it. `lookup` needs to know who said something; here that is recognised from the text alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from cms_oauth.diagnosis import entra, local, lookup, mail, oauth2, provider, servers
from cms_oauth.diagnosis.verdicts import Verdict
from cms_oauth.frozen import dataclass
from cms_oauth.providers import GOOGLE
from cms_oauth.text import printable

# Entra's number, as its answers, its log and its pages show it. The page of conditional access has no letters before it.
_AADSTS = re.compile(r"\bAADSTS ?(\d{4,9})\b|\bError Code: ?(\d{5,9})\b", re.IGNORECASE)
# A number alone, as people copy it.
_NUMBER_ALONE = re.compile(r"\s*(\d{5,9})\s*")
# Google's page says "Error 400: admin_policy_enforced".
_OAUTH_ERROR = re.compile(r"""\b[Ee]rror(?: 4\d\d)?["']?\s*[:=]\s*["']?([a-z]+(?:_[a-z]+)+)\b""")
# The words of OAuth 2.0 and of the providers, which are words of no language: they are recognised anywhere in a line.
_WORDS = frozenset((*entra.ERRORS, *(word for key in oauth2.ROWS for word in key[1:] if word)))
# Those that Entra does not have.
_GOOGLES = _WORDS - entra.ERRORS.keys()
# What shows that Google said it.
_OF_GOOGLE = re.compile(
    r"\bgoogle|Token has been expired or revoked|Client is unauthorized to retrieve access tokens", re.IGNORECASE
)
_SUBTYPE = re.compile(r"""\berror_subtype["']?\s*[:=]\s*["']?([a-z_]+)\b""")
_MORE = "the line that it is from may say more: give all of it to `cms explain`"
_BARE_WORD = re.compile(rf"(?<![\w.-])({'|'.join(sorted(_WORDS))})(?![\w.-])")
_SUBERROR = re.compile(r"""\bsuberror["']?\s*[:=]\s*["']?([a-z_]+)\b""")

# A mail server's reply, wherever it stands in a line. SMTP: a code with an enhanced code, or a code that begins the line
# or what a mail program quotes. An IMAP server's may follow a tag.
_REPLIES = (
    ("smtp", re.compile(r"(?<![\w.-])([45]\d\d[ -][45]\.\d{1,3}\.\d{1,3}\b.*)")),
    ("smtp", re.compile(r"""(?:^|[:"'(\[>]) *([45]\d\d[ -](?=\D).*)""")),
    ("pop", re.compile(r"(-ERR\b.*)")),
    ("imap", re.compile(r"(?:^|[\s\"':])(?:\* |[A-Za-z]{0,8}\d{1,8} )?((?:NO|BAD|BYE) .*)")),
)

# How Python's exceptions end: (535, b'5.7.3 Authentication unsuccessful')
_QUOTED = re.compile(r"[\"']\)*$")
_IN_REPLY_TO = re.compile(r"(?: \(in reply to [^()]*\))?\)$")


@dataclass(frozen=True, slots=True)
class Explained:
    """A line of the text, the verdicts about it, the likeliest first, and how many lines have the same.

    `source` says whose words they are: those of "entra" or another provider, of a "mail" server, or of "cms" itself.
    """

    line: str
    source: str
    verdicts: tuple[Verdict, ...]
    times: int = 1


def explain(lines: Iterable[str]) -> list[Explained]:
    """Return what is known about the errors in a text, each cause once, in the order of the text."""
    found = dict[tuple[str, ...], Explained]()
    for raw in lines:
        line = printable(raw).strip()
        for source, verdicts in _about(line):
            names = (source, *(each.name for each in verdicts))
            before = found.get(names) or Explained(line, source, verdicts, 0)
            found[names] = replace(before, times=before.times + 1)
    return list(found.values())


def _about(line: str) -> Iterator[tuple[str, tuple[Verdict, ...]]]:
    """Yield the verdicts about a line, and whose words they are about."""
    numbers = [int(each[1] or each[2]) for each in _AADSTS.finditer(line)]
    alone = _NUMBER_ALONE.fullmatch(line)
    error, suberror = _OAUTH_ERROR.search(line), _SUBERROR.search(line)
    if numbers or alone or (error and suberror):
        number = numbers[0] if numbers else int(alone[1]) if alone else None
        yield "entra", lookup.of_entra(number, error[1] if error else "", suberror[1] if suberror else "")
        return
    if error or line in _WORDS:
        # Google's subtype says more than the word.
        word = _SUBTYPE.search(line) or error
        yield "entra", _of_word(word[1] if word else line, line)
        return
    if any(row.pattern.search(line) for row in local.ROWS):
        yield "cms", lookup.of_client("", line)
        return
    for protocol, pattern in _REPLIES:
        if reply := pattern.search(line):
            yield "mail", lookup.diagnose(protocol, _alone(reply[1]))
            return
    # Words of a reply without its code: mail programs leave that out, and Python's quote what is left.
    line = _QUOTED.sub("", line)
    row = next((row for row in mail.ROWS if not row.guess and row.pattern.search(line)), None)
    whose = servers.whose(line, "")
    if row or (whose and servers.causes(whose, line)):
        yield "mail", lookup.diagnose(row.protocols[0] if row else "imap", line)
    elif word := _BARE_WORD.search(line):
        yield "entra", _of_word(word[1], line)


def _of_word(word: str, line: str) -> tuple[Verdict, ...]:
    """Return what an error word means. Nobody knows who said it, and Google may mean something else by it."""
    googles = provider.of_problem({"kind": "refused", "reason": word}, GOOGLE)
    first, *others = (
        googles if word in _GOOGLES or _OF_GOOGLE.search(line) else (*lookup.of_entra(None, word), *googles)
    )
    if line == word:
        first = replace(first, steps=(*first.steps, _MORE))
    return (first, *(each for each in others if each.name != first.name and word in _WORDS))


def _alone(reply: str) -> str:
    """Return a reply without what the program that tells of it has put behind it: quotation marks, Postfix's bracket."""
    reply = reply.rstrip("\"'")
    # "... said: 550 5.7.60 no (in reply to MAIL FROM command))"
    return _IN_REPLY_TO.sub("", reply) if reply.count(")") > reply.count("(") else reply
