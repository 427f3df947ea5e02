"""TODO(docstring) cms.system.files."""

from __future__ import annotations

import stat
from pathlib import Path

# What a path can lead to that is no file, in words.
_ODDITIES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def oddity(path: Path) -> str:
    """Return what is at a path that is no regular file ("a device"), "" for a file, and for nothing that can be seen."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    return _ODDITIES.get(stat.S_IFMT(mode), "")
