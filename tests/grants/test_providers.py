"""What every provider does alike: whose sign-in it is, and what its answer grants."""

from __future__ import annotations

import pytest

from cms.core.accounts import Grant
from cms.core.lifecycle import Trouble
from cms.grants.providers import granted_scopes, no_sign_in, nothing_to_keep, recognised, wanted

ANN, BEN = "ann@example.test", "ben@example.test"
GRANT = Grant("https://login.example.test", "id", ANN)


def test_wanted() -> None:
    """A sign-in's token is for the first scope set, its consent for all of them, each scope once."""
    grant = Grant("https://login.example.test", "id", ANN, (("a", "b"), ("b", "c")))

    assert (("a", "b"), ("a", "b", "c")) == wanted(grant)
    assert ((), ()) == wanted(GRANT)


@pytest.mark.parametrize(
    ("told", "asked", "expected"),
    [
        (None, ("mail",), ("mail",)),
        ("openid email", ("mail",), ("mail",)),
        ("openid MAIL more", ("mail",), ("mail",)),
        ("read openid", ("read", "send"), ("read",)),
        ("user.read", ("https://x/.default",), ("https://x/.default",)),
    ],
)
def test_granted_scopes(told: object, asked: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """The provider may grant fewer scopes than were asked for; if it names none for mail, all are granted."""
    assert expected == granted_scopes(told, asked)


def test_recognised(capsys: pytest.CaptureFixture[str]) -> None:
    """By any of the names, whatever their case; or as the account that signed in before, with a new name."""
    assert "Ann@example.test" == recognised(GRANT, [BEN, "Ann@example.test"], "1", "")
    assert not capsys.readouterr().err
    assert BEN == recognised(GRANT, [BEN], "1", "1")
    assert f"{ANN} is now called {BEN}" in capsys.readouterr().err


@pytest.mark.parametrize(("names", "known"), [([BEN], ""), ([BEN], "2"), ([], "")])
def test_somebody_else(names: list[str], known: str) -> None:
    """Another person is refused, and so is one without a name."""
    found = recognised(GRANT, names, "1", known)

    assert isinstance(found, Trouble)
    assert "wrong-user" == found.kind
    assert ("a user without a name" in found.message) == (not names)


def test_what_is_missing() -> None:
    """Whoever has not signed in, or would not stay signed in, is told the next command."""
    assert "`cms login ann@example.test`" in str(no_sign_in(GRANT).hint)
    assert "do this, then `cms login ann@example.test`" == str(nothing_to_keep(GRANT, "do this, then {login}").hint)
