"""What the vault has of a sign-in that is not Microsoft's."""

from __future__ import annotations

import pytest

from cms.grants.oauth2.kept import Kept


def test_it_comes_back_as_it_went() -> None:
    """All of it, and the same text for the same sign-in: a vault file is not written without need."""
    kept = Kept("1//token", "mail more", "dyn-1")

    assert kept == Kept.read(kept.text())
    assert kept.text() == Kept.read(kept.text()).text()


@pytest.mark.parametrize("text", ["{}", '{"refresh_token": 7, "scope": null, "client_id": {}}'])
def test_what_is_not_there(text: str) -> None:
    """An import may have anything in it: the provider refuses an empty token, and cms has no bug."""
    assert Kept("") == Kept.read(text)


def test_it_does_not_print() -> None:
    """A refresh token is in no message."""
    assert "1//token" not in repr(Kept("1//token"))
