"""What the daemon and the `cms` command say alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cms.core.words import duration

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (-5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min 59 s"),
        (3660, "1 h 1 min"),
        (86_400, "1 d"),
        (90_061, "1 d 1 h"),
        (86_405, "1 d 5 s"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, expected: str) -> None:
    """The two largest units that are not zero."""
    assert expected == duration(seconds)


def test_a_status_is_shown_without_what_makes_it() -> None:
    """A client loads neither the rows nor the lives, grants and accounts that they are made of."""
    look = "import sys, cms.core.status_text; print(sorted(name for name in sys.modules if name.startswith('cms')))"
    seen = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, cwd=ROOT)

    assert (
        f"{['cms', 'cms.core', 'cms.core.status_text', 'cms.core.words', 'cms_oauth', 'cms_oauth.text']}\n"
        == seen.stdout
    )
