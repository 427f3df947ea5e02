"""Who can write the folders of sockets and token files: the rule of the configuration's own folder (cms/config/trust.py)."""

from __future__ import annotations

from cms.config import trust
from cms.config.trust import SYSTEM, Untrusted
from cms.system.listener import ListenError


def check_folder(path: str) -> None:
    """Raise ListenError if another user could put a socket or a file at this path. May block. Raises OSError."""
    if why := distrust(path):
        raise ListenError(f"{path}: {why}")


def distrust(path: str) -> str:
    """Return why a socket or a token file at this path would not be safe, and what to do; "" if it is. Raises OSError."""
    try:
        trust.check_folder(path, SYSTEM)
    except Untrusted as untrusted:
        return f"{untrusted.message}: {untrusted.hint}"
    return ""
