"""Text from outside, shown on one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms_oauth.text import MAX_LINE, MAX_LINK, is_link, printable, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Grüße an o'connor@example.test", "Grüße an o'connor@example.test"),
        ("a\nb\r\nc\td", "a b  c d"),
        ("\x1b[2Jgone", "?[2Jgone"),
        ("\x1b]0;title\x07", "?]0;title?"),
        ("\x9b31mred", "?31mred"),
        ("\x00\x7f\x85", "?? "),
        ("safe\u202egnp.exe", "safe?gnp.exe"),
        ("\u2066a\u2069\u200b\ufeff", "?a???"),
        ("line\u2028separator", "line separator"),
        ("\ud800", "?"),
        ("", ""),
    ],
)
def test_what_moves_a_cursor_goes(text: str, expected: str) -> None:
    """Control characters, escape sequences, C1, marks of direction and of zero width, ends of lines; the rest stays."""
    assert expected == printable(text)


def test_a_line_has_a_length() -> None:
    """A longer text is cut to the bound, the mark included; a text as long as the bound stays whole."""
    assert MAX_LINE == len(printable("x" * (MAX_LINE + 1)))
    assert "ab..." == printable("abcdef", 5)
    assert "abcde" == printable("abcde", 5)


@given(st.text())
def test_whatever_comes_prints(text: str) -> None:
    """On one line, as it is where it printed already."""
    line = printable(text)

    assert line.isprintable()
    assert len(line) == len(text)
    assert line == text or not text.isprintable()


@given(st.text())
def test_lines_and_tabs_stay_where_a_text_is_written(text: str) -> None:
    """Of everything else `shown` leaves what `printable` leaves."""
    kept = shown(text)

    assert kept.replace("\n", "").replace("\t", "").isprintable()
    assert printable(text, len(text)) == printable(kept, len(kept))
    assert [at for at, each in enumerate(text) if each in "\n\t"] == [
        at for at, each in enumerate(kept) if each in "\n\t"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://login.microsoft.com/device", True),
        ("HTTP://127.0.0.1:8080/?a=b&c=%20#d", True),
        ("javascript:alert(1)", False),
        ("file:///etc/passwd", False),
        (" https://x.test/", False),
        ("https://x.test/\nnext", False),
        ("https://x.test/a b", False),
        ("https://x.test/\x1b[2J", False),
        ("https://x.test/\u202e", False),
        ('https://x.test/"onload=', False),
        (f"https://x.test/{'a' * MAX_LINK}", False),
        ("", False),
        (7, False),
        (None, False),
    ],
)
def test_what_is_a_link(text: object, expected: bool) -> None:
    """A web address and nothing else: people open it, and browsers get it as an argument."""
    assert expected is is_link(text)
