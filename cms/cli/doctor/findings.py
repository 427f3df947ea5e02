"""The lines of a doctor's report: each passes, warns or fails, and explains a problem and who can fix it. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cms.core.status_text import WIDTH
from cms.core.words import CRITICAL, OK, WARNING
from cms_oauth.diagnosis import verdicts
from cms_oauth.diagnosis.verdicts import Verdict, all_lines, printable

# "skip" is for what could not be checked: neither good nor bad.
LEVELS = {"pass": OK, "skip": OK, "warn": WARNING, "fail": CRITICAL}

# Changes if a field of the JSON is removed or changes its meaning. New fields may be added at any time.
JSON_VERSION = 1

# The width of the column with the checks' names.
_TITLES = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `check` is the name of its check, `level` a key of `LEVELS`.

    If it does not pass, `verdicts` are the possible explanations, the likeliest first.
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
    """Return a verdict for a problem that the person at the keyboard can fix."""
    return Verdict(name, cause, "you", steps)


def exit_code(findings: Sequence[Finding]) -> int:
    """Return the exit code for monitoring: 0 if nothing warns or fails, 1 for a warning, 2 for a failure."""
    return max((LEVELS[each.level] for each in findings), default=OK)


def as_text(finding: Finding) -> list[str]:
    """Return a finding as lines for a terminal."""
    margin = " " * (_TITLES + 7)
    head = textwrap.wrap(
        printable(finding.message),
        WIDTH,
        initial_indent=f"{finding.level:<5} {finding.check:<{_TITLES}} ",
        subsequent_indent=margin,
        # Addresses, paths and the steps below are never broken, because people copy them.
        break_long_words=False,
        break_on_hyphens=False,
    )
    if not finding.verdicts:
        return head
    return [*head, *(f"{margin}{line}" for line in all_lines(finding.verdicts))]


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
    return {"check": finding.check, "level": finding.level, "message": finding.message, "verdicts": told}
