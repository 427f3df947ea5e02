"""The style sheet and the script of the sign-in page, which are files beside this one, and this process's mark."""

from __future__ import annotations

import secrets
from pathlib import Path

_HERE = Path(__file__).parent

STYLE = (_HERE / "page.css").read_text()
SCRIPT = (_HERE / "page.js").read_text()

# What only this process and the pages that it has sent know. By it the script tells cms from another program that listens
# at the port after cms.
MARK = secrets.token_hex(16)
