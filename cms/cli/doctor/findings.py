"""The lines of a doctor's report: each passes, warns or fails, and explains a problem and who can fix it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cms.core.status_table import some
from cms.core.status_text import WIDTH, filled
from cms.core.words import CRITICAL, OK, WARNING
from cms_oauth.diagnosis import verdicts
from cms_oauth.diagnosis.verdicts import Verdict, all_lines
from cms_oauth.moves import of_anyone

# "skip" is for what could not be checked: neither good nor bad.
LEVELS = {"pass": OK, "skip": OK, "warn": WARNING, "fail": CRITICAL}

# Changes if a field of the JSON is removed or changes its meaning. New fields may be added at any time.
JSON_VERSION = 1

# The width of the column with the checks' names.
_TITLES = 16
# Beside that column there is no room for words in less.
_NARROWEST = 50


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `check` is the name of its check, `level` a key of `LEVELS`.

    If it does not pass, `verdicts` are the possible explanations, the likeliest first. `account` is the name of the
    account that it is about and `protocol` what of it, as both stand in the message; "" for none.
    """

    check: str
    level: str
    message: str
    verdicts: tuple[Verdict, ...] = ()
    account: str = ""
    protocol: str = ""

    def about(self, account: str, protocol: str = "") -> Finding:
        return replace(self, account=account, protocol=protocol)


def passed(check: str, message: str) -> Finding:
    return Finding(check, "pass", message)


def skipped(check: str, message: str) -> Finding:
    return Finding(check, "skip", message)


def warned(check: str, message: str, *verdicts: Verdict) -> Finding:
    return Finding(check, "warn", message, verdicts)


def failed(check: str, message: str, *verdicts: Verdict) -> Finding:
    return Finding(check, "fail", message, verdicts)


# Characters that no message has: a person's eyes never see them.
_WHO, _WHAT = "\0", "\1"


def merged(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings that differ by their account or protocol alone as one, with the names of all.

    The explanation says USER for the account then.
    """
    groups = dict[Finding, list[Finding]]()
    for each in findings:
        groups.setdefault(_form(each), []).append(each)
    return [group[0] if len(group) == 1 else _of_all(form, group) for form, group in groups.items()]


def _form(finding: Finding) -> Finding:
    """Return a finding without its account and its protocol."""
    if not finding.account:
        return finding
    # The account's own error may name it again.
    message = finding.message.replace(finding.account, _WHO)
    if finding.protocol:
        message = message.replace(f"{_WHO}, {finding.protocol}", f"{_WHO}, {_WHAT}", 1)
    user = finding.account
    verdicts = tuple(
        replace(each, cause=of_anyone(each.cause, user), steps=tuple(of_anyone(step, user) for step in each.steps))
        for each in finding.verdicts
    )
    return replace(finding, message=message, verdicts=verdicts, account="", protocol="")


def _of_all(form: Finding, group: Sequence[Finding]) -> Finding:
    users = list(dict.fromkeys(each.account for each in group))
    # Accounts may be served with some of the others' protocols.
    protocols = list(dict.fromkeys(word for each in group for word in each.protocol.split(", ")))
    message = form.message.replace(_WHO, some(users), 1).replace(_WHAT, ", ".join(protocols), 1)
    if len(users) == 1:
        return replace(form, message=message.replace(_WHO, users[0]), verdicts=group[0].verdicts)
    return replace(form, message=message.replace(_WHO, "USER"))


def yours(name: str, cause: str, *steps: str) -> Verdict:
    """Return a verdict for a problem that the person at the keyboard can fix."""
    return Verdict(name, cause, "you", steps)


def exit_code(findings: Sequence[Finding]) -> int:
    """Return the exit code for monitoring: 0 if nothing warns or fails, 1 for a warning, 2 for a failure."""
    return max((LEVELS[each.level] for each in findings), default=OK)


def as_text(finding: Finding, width: int = WIDTH) -> list[str]:
    """Return a finding as lines for a terminal of this width, in columns."""
    width = max(_NARROWEST, min(width, WIDTH))
    margin = " " * (_TITLES + 7)
    paragraphs = [filled(finding.message, width, f"{finding.level:<5} {finding.check:<{_TITLES}} ", margin)]
    for line in all_lines(finding.verdicts) if finding.verdicts else ():
        said = line.lstrip()
        indent = margin + " " * (len(line) - len(said))
        # Below the text of a step, which begins behind its number.
        paragraphs.append(filled(said, width, indent, f"{indent}   "))
    return [line for each in paragraphs for line in each.splitlines()]


def summary(findings: Sequence[Finding]) -> str:
    """Return a line that counts the findings by level."""
    counts = {level: sum(each.level == level for each in findings) for level in LEVELS}
    words = {"fail": "failed", "warn": "warned", "skip": "skipped", "pass": "passed"}
    return ", ".join(f"{counts[level]} {word}" for level, word in words.items() if counts[level]) or "nothing to check"


def as_data(findings: Sequence[Finding], version: str) -> dict[str, Any]:
    """Return the versioned object that `cms doctor --json` prints. `version` is that of cms."""
    return {
        "version": JSON_VERSION,
        "cms": version,
        "exit_code": exit_code(findings),
        "findings": [_data(each) for each in findings],
    }


def _data(finding: Finding) -> dict[str, Any]:
    told = [verdicts.as_data(each) for each in finding.verdicts]
    about = {"account": finding.account, "protocol": finding.protocol}
    return {"check": finding.check, "level": finding.level, "message": finding.message, "verdicts": told, **about}
