"""The files of contrib/ with their adjustable lines adjusted, and nothing else about them changed."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def exim_conf(**macros: str) -> str:
    """Return contrib/exim4.conf with these macros' values."""
    text = (ROOT / "contrib" / "exim4.conf").read_text()
    for name, value in macros.items():
        # A value may go on after a backslash.
        text, found = re.subn(rf"^{name} =(?:.*\\\n)*.*$", f"{name} = {value}", text, flags=re.MULTILINE)
        assert found == 1, f"{name} is defined {found} times"
    return text


def replaced(text: str, **words: str) -> str:
    """Return a text with words of an example replaced: each must be there."""
    for old, new in words.items():
        assert old in text, f"no {old} in the example"
        text = text.replace(old, new)
    return text
