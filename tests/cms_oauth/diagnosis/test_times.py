"""Times in what a mail server says are read as the server means them."""

from __future__ import annotations

import pytest

from cms_oauth.diagnosis.times import clock_of, span, wait_of

# 15 January 2027, 08:00 UTC.
NOW = 1_800_000_000.0


def test_times() -> None:
    """In the unit that a person would take."""
    assert ["0 s", "119 s", "2 minutes", "2 hours", "2 days"] == [span(s) for s in (0, 119, 120, 7200, 172_800)]
    assert wait_of("no time in it") is None


@pytest.mark.parametrize(
    ("greeting", "expected"),
    [
        ("220 AM0.outlook.com Microsoft ESMTP MAIL Service ready at Fri, 15 Jan 2027 08:00:00 +0000 [08DE]", NOW),
        ("220 AM0.outlook.com Microsoft ESMTP MAIL Service ready at Fri, 15 Jan 2027 09:00:00 +0100", NOW),
        ("220 AM0.outlook.com Microsoft ESMTP MAIL Service ready at Fri, 99 Jan 2027 09:00:00 +0100", None),
        ("220 AM0.outlook.com Microsoft ESMTP MAIL Service ready", None),
        ("220 mail.example.net ESMTP Exim 4.96 Fri, 15 Jan 2027 08:00:00 +0000", None),
        ("* OK The Microsoft Exchange IMAP4 service is ready.", None),
    ],
)
def test_the_time_in_a_greeting(greeting: str, expected: float | None) -> None:
    """Exchange's alone: another server's clock may be as wrong as this machine's."""
    assert expected == clock_of(greeting)
