"""An address as a QR code of block characters, for a telephone in front of the terminal."""

from __future__ import annotations

import io

import segno

# The standard wants four modules of quiet around a code; two are enough against a terminal's dark ground, and save rows.
BORDER = 2


def drawn(address: str) -> str:
    """Return the code as lines of characters, each as wide as the others. Light on dark, as most terminals are."""
    out = io.StringIO()
    segno.make(address, error="l", micro=False).terminal(out, border=BORDER, compact=True)
    return out.getvalue().rstrip("\n")
