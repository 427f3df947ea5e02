"""docs/troubleshooting.md, made from the tables of verdicts: `python -m cms_oauth.diagnosis.page >docs/troubleshooting.md`.

Each row has the words that a person would search for, so that the page is found with a piece of an error message.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from cms_oauth.diagnosis import entra, local, mail
from cms_oauth.diagnosis.lookup import of_row
from cms_oauth.diagnosis.verdicts import Verdict, fill_in
from cms_oauth.moves import Command, Value, cms

_TOP = """# Troubleshooting

<!-- Made by `make docs` from the tables that cms itself explains failures with. Change those, not this page. -->

`cms-oauth --user=user@domain.com --test-smtp=smtp.office365.com` (`--test-imap=`, `--test-pop=outlook.office365.com`)
logs in, shows the dialogue and says what the server's answer means; with `--output=json` it says so to a program.
`cms doctor` looks at everything else as well, and `cms status` at the sign-ins. This page is what they know: search it
for a piece of the message that you see.

Commands with capitals and hyphens, such as `Set-CASMailbox`, are for an administrator of Exchange Online, in PowerShell
after `Connect-ExchangeOnline`.
"""

_MOVES = {"you": "you", "administrator": "your administrator", "wait": "nobody: wait"}

# What stands for the things that are known only when it happens.
_PLACEHOLDERS: dict[str, Value] = {
    "mailbox": "user@domain.com",
    "user": "user@domain.com",
    "trustee": "person@domain.com",
    "claimed": "person@domain.com",
    "login": cms("login", "user@domain.com"),
    "check": Command(("cms-oauth", "--user=user@domain.com", "--test-smtp=HOST")),
    "credential": "client_secret (certificate, client_assertion)",
    "consent": cms("admin-consent-url", "user@domain.com"),
    "redirect": "http://localhost",
    "origin": "http://localhost",
    "audience": "another resource",
    "permissions": "other permissions",
    "wanted": "SMTP.Send (IMAP.AccessAsUser.All, POP.AccessAsUser.All)",
    "app_role": "SMTP.SendAsApp (IMAP.AccessAsApp, POP.AccessAsApp)",
    "app": "APPLICATION-ID",
    "protocol": "SMTP (IMAP, POP)",
    "switch": "-SmtpClientAuthenticationDisabled $false (-ImapEnabled $true, -PopEnabled $true)",
    "host": "HOST",
    "offered": "passwords alone, or nothing",
    "software": "Dovecot, Postfix, exim or other",
    "challenge": "as it says in the middle of the login",
    "wait": "the time that it names",
    "ago": "some time",
    "skew": "minutes",
}


def page() -> str:
    """Return the whole page."""
    sections = (
        ("A mail server refuses the login", _unique(_of_mail(*_LOGINS))),
        ("A message or a mailbox is refused, not the login", _unique(_of_mail(*_OTHERS))),
        ("There is no connection with the mail server", _unique(_of_mail(*_CONNECTIONS))),
        ("Microsoft refuses the sign-in", _unique(_of_entra())),
        ("Microsoft refuses an application that signs in by itself", _unique(_of_applications())),
        ("cms gives no token", _unique(fill_in(row.verdict, _PLACEHOLDERS) for row in local.ROWS)),
    )
    return _TOP + "".join(f"\n## {title}\n" + "".join(map(_entry, verdicts)) for title, verdicts in sections)


# The mail servers' verdicts, by where in a dialogue they come; what no section names comes with the first.
_CONNECTIONS = (
    mail.CERTIFICATE,
    mail.TLS_BROKEN,
    mail.NO_NAME,
    mail.NO_CONNECTION,
    mail.NO_ANSWER,
    mail.NO_TLS,
    mail.OLD_TLS,
)
_OTHERS = (
    mail.SEND_AS,
    mail.NOT_LOGGED_IN,
    mail.LOGON_FAILURE,
    mail.THROTTLED,
    mail.TOO_MANY_CONNECTIONS,
    mail.SENDING_LIMIT,
    mail.ORGANISATION_LIMIT,
    mail.TOO_BIG,
    mail.BAD_MESSAGE,
    mail.HUNG_UP,
    mail.FOLDER,
    mail.MAILBOX_FULL,
    mail.RESTRICTED,
    mail.POP_POLLING,
)
_ALL = tuple(each for each in vars(mail).values() if isinstance(each, Verdict))
_LOGINS = tuple(each for each in _ALL if each not in (*_CONNECTIONS, *_OTHERS))


def _of_mail(*verdicts: Verdict) -> Iterator[Verdict]:
    return (fill_in(each, _PLACEHOLDERS) for each in verdicts)


def _of_entra() -> Iterator[Verdict]:
    rows = (*entra.ROWS.values(), *entra.SUBERRORS.values(), *entra.ERRORS.values())
    statuses = (entra.THROTTLED, entra.FAILED, entra.NOT_THE_PROVIDER)
    return (_numbered(row, entra.ROWS) for row in (*rows, *statuses))


def _of_applications() -> Iterator[Verdict]:
    """Yield the rows that are not those of persons as well."""
    rows = (*entra.APPLICATION_ROWS.values(), entra.APPLICATION_REFUSED, entra.NO_IDENTITY)
    return (_numbered(row, entra.APPLICATION_ROWS) for row in rows if row not in entra.ROWS.values())


def _numbered(row: entra.Row, rows: Mapping[int, entra.Row]) -> Verdict:
    """Return a row with its numbers among its words, each in full: people search for the one that they have met."""
    again = entra.WAIT_OR_AGAIN if rows is entra.APPLICATION_ROWS else entra.AGAIN
    verdict = fill_in(of_row(row), {**_PLACEHOLDERS, "again": again})
    numbers = (f"AADSTS{number}" for number, each in sorted(rows.items()) if each is row)
    return replace(verdict, words=(*numbers, *verdict.words))


def _unique(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts without repetition."""
    return list(dict.fromkeys(verdicts))


def _entry(verdict: Verdict) -> str:
    lines = ["", f"### {verdict.name}", ""]
    lines += ["Seen as: " + ", ".join(f"“{word}”" for word in verdict.words) + ".", ""] if verdict.words else []
    takes = f" It takes: {verdict.takes}." if verdict.takes else ""
    lines += [verdict.cause, "", f"Whose move: {_MOVES[verdict.mover]}.{takes}", ""]
    lines += [f"{number}. {step}" for number, step in enumerate(verdict.steps, 1)]
    lines += ["", f"[More]({verdict.link})"] if verdict.link else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
