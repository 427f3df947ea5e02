"""What the test over IMAP takes a server to offer. Whole dialogues are in test_run.py."""

from __future__ import annotations

import pytest

from cms_oauth.mailtest.imap import offered_by


@pytest.mark.parametrize(
    ("host", "capabilities", "expected"),
    [
        ("imap.example.test", ["IMAP4REV1", "AUTH=PLAIN"], ["PLAIN"]),
        ("imap.gmail.com", ["AUTH=XOAUTH2", "AUTH=OAUTHBEARER"], ["XOAUTH2", "OAUTHBEARER"]),
        ("IMAP.yandex.com", ["AUTH=PLAIN"], ["PLAIN", "XOAUTH2"]),
        ("imap.yandex.com", ["AUTH=XOAUTH2"], ["XOAUTH2"]),
    ],
)
def test_what_a_server_offers(host: str, capabilities: list[str], expected: list[str]) -> None:
    """What it says; and XOAUTH2 where it is known to be taken although the server does not say so."""
    assert expected == offered_by(host, capabilities)
