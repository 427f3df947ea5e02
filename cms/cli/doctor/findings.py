"""What `cms doctor` finds: lines that pass, warn or fail, each with its meaning and who can fix it. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cms.core.status import CRITICAL, OK, WARNING
from cms.core.status_text import WIDTH
from cms_oauth.diagnosis import verdicts
from cms_oauth.diagnosis.verdicts import Verdict, as_lines, printable

# "skip" is what could not be looked at, and why: neither good nor bad.
LEVELS = {"pass": OK, "skip": OK, "warn": WARNING, "fail": CRITICAL}

# Changes when a field of the JSON changes its meaning or goes; new fields may come at any time.
JSON_VERSION = 1

# Further explanations than the likeliest are told in one line each.
_TITLES = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `check` is the name of its check, `level` a word of `LEVELS`.

    `verdicts` explain what does not pass, the likeliest first.
    """

    check: str
    level: str
    message: str
    verdicts: tuple[Verdict, ...] = ()


def passed(check: str, message: str) -> Finding:
    return Finding(check, "pass", message)


def skipped(check: str, message: str) -> Finding:
    return Finding(check, "skip", message)


def warned(check: str, message: str, *verdicts: Verdict) -> Finding:
    return Finding(check, "warn", message, verdicts)


def failed(check: str, message: str, *verdicts: Verdict) -> Finding:
    return Finding(check, "fail", message, verdicts)


def yours(name: str, cause: str, *steps: str) -> Verdict:
    """Return a verdict that the person at the keyboard acts upon."""
    return Verdict(name, cause, "you", steps)


def exit_code(findings: Sequence[Finding]) -> int:
    """Return what monitoring understands: 0 when all passes, 1 when something warns, 2 when something fails."""
    return max((LEVELS[each.level] for each in findings), default=OK)


def as_text(finding: Finding) -> list[str]:
    """Return a finding as lines for a terminal."""
    margin = " " * (_TITLES + 7)
    head = textwrap.wrap(
        printable(finding.message),
        WIDTH,
        initial_indent=f"{finding.level:<5} {finding.check:<{_TITLES}} ",
        subsequent_indent=margin,
        # Addresses and paths are never broken: they get copied. Nor are the steps below, for the same reason.
        break_long_words=False,
        break_on_hyphens=False,
    )
    if not finding.verdicts:
        return head
    likeliest, *others = finding.verdicts
    lines = [*as_lines(likeliest), *(f"it could also be: {each.cause}" for each in others)]
    return [*head, *(f"{margin}{line}" for line in lines)]


def summary(findings: Sequence[Finding]) -> str:
    """Return one line over all of them."""
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
    return {"check": finding.check, "level": finding.level, "message": finding.message, "verdicts": told}
