"""The style sheet and the script of the sign-in page, which are files beside this one."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent

STYLE = (_HERE / "page.css").read_text()
SCRIPT = (_HERE / "page.js").read_text()
