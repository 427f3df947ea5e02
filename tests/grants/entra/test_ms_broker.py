"""Sign-in through Microsoft's broker: real MSAL over a stand-in for its library. No real broker was asked."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_broker import Error, FakeBroker, Person, Status, forget, of_newer_msal
from support.grants import ANN, BEN, SCOPES, dispatched, grant_for, service

from cms.core.accounts import Grant
from cms.core.lifecycle import Granted, Outcome, Refused, Transient
from cms.grants.entra import exchange, ms_broker
from cms.grants.entra.exchange import Call, Result
from cms.grants.messages import Export, Exported, Listed, Open, Peek, Place, Prompt, SignIn
from cms.grants.service import Cancelled, Conversation
from cms.sandbox.entra import Entra

pytestmark = of_newer_msal

CLAIMS = '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'


class Patient(Conversation):
    """A conversation whose person needs no words from here, and gives up when told to."""

    def __init__(self, *, gives_up: bool = False) -> None:
        super().__init__(lambda _prompt: None)
        self.prompted: list[Prompt] = []
        self._gives_up = gives_up
        self._nothing = threading.Event()

    def prompt(self, prompt: Prompt) -> None:
        self.prompted.append(prompt)

    def wait(self, seconds: float) -> Mapping[str, str] | None:
        if self._gives_up:
            raise Cancelled
        self._nothing.wait(min(seconds, 0.01))
        return None


@pytest.fixture(autouse=True)
def _no_broker_before_or_after() -> Iterator[None]:
    forget()
    yield
    forget()


@pytest.fixture
def grant(entra: Entra) -> Grant:
    return grant_for(entra, sign_in="broker")


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    """A broker in whose window Ann signs in."""
    made = FakeBroker(Person(ANN))
    made.install(monkeypatch)
    return made


def sign_in(first: Open, grant: Grant, claims: str = "", line: Patient | None = None) -> Outcome:
    return service(first).sign_in(SignIn(1, grant, "broker", claims), line or Patient())


def told(outcome: Outcome) -> str:
    """Return what a person is told of a sign-in that gave no token."""
    assert isinstance(outcome, Refused | Transient), outcome
    return f"{outcome.trouble.kind}: {outcome.trouble.message} | {outcome.trouble.hint}"


def test_a_window_first_and_none_after(first: Open, grant: Grant, broker: FakeBroker, entra: Entra) -> None:
    """The person signs in in the broker's window; renewals ask without one. No refresh token comes to cms."""
    line = Patient()
    outcome = sign_in(first, grant, line=line)
    again = service(first).acquire(grant, SCOPES)

    assert isinstance(outcome, Granted)
    assert isinstance(again, Granted)
    assert (ANN, True, 3500 < again.expires_in <= 3600) == (outcome.sign_in.who, outcome.sign_in.persisted, True)
    assert outcome.secret != again.secret
    assert ["silent", "window", "renewal"] == [kind for kind, _ in broker.asked]
    assert [("broker", "")] == [(each.method, each.url) for each in line.prompted]
    window = broker.asked[1][1]
    assert (ANN, list(SCOPES)) == (window["login_hint"], window["scopes"])
    assert 0 == entra.count("token")


def test_no_export_has_it(first: Open, tmp_path: Path, grant: Grant, broker: FakeBroker, entra: Entra) -> None:
    """The refresh token is the broker's: such a sign-in is left out of an export, which says so, and alone makes none."""
    sign_in(first, grant)
    own = replace(grant_for(entra, BEN), sign_in="paste")
    entra.add_user(BEN)
    with dispatched(first) as other:
        assert isinstance(other.sign_in(own, entra), Granted)
    both, alone = (service(first).answer(Export(1, grants, "correct horse")) for grants in ((grant, own), (grant,)))

    assert isinstance(both, Exported)
    assert ((own.key,), (grant.key,)) == (both.keys, both.kept_by_ms_broker)
    (tmp_path / "export").write_text(both.text)
    held = service(first).answer(Peek(2, Place(str(tmp_path / "export"), "cms", password="correct horse")))
    assert isinstance(held, Listed)
    assert [BEN] == [each.who for each in held.items]
    assert isinstance(alone, Refused)
    assert told(alone).startswith("unfit: nothing can be exported: Microsoft's broker keeps the sign-in")


def test_claims_are_carried_in(first: Open, grant: Grant, broker: FakeBroker) -> None:
    """What a refused renewal demanded is what the window asks for."""
    sign_in(first, grant, CLAIMS)

    assert CLAIMS == broker.asked[-1][1]["claims"]


def test_another_person(first: Open, grant: Grant, broker: FakeBroker) -> None:
    """The broker chooses the person: another person's sign-in is refused, both are named."""
    broker.window = Person(BEN)
    said = told(sign_in(first, grant))

    assert said.startswith("wrong-user: ")
    assert (True, True) == (ANN in said, BEN in said)
    assert "no-sign-in" in told(service(first).acquire(grant, SCOPES))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Error(Status.Status_UserCanceled), ("refused: ", "the sign-in was declined")),
        (Error(Status.Status_NoNetwork), ("server: ", "temporary fault")),
        (Error(Status.Status_NoNetwork, "AADSTS50011: no such redirect"), ("refused: ", "redirect address")),
        (Error(Status.Status_NoNetwork, "AADSTS53003: blocked"), ("refused: ", "conditional-access")),
    ],
)
def test_a_window_that_fails(
    first: Open, grant: Grant, broker: FakeBroker, error: Error, said: tuple[str, str]
) -> None:
    """Whatever the broker says, it is told as the same refusal by Entra would be."""
    broker.window = error
    kind, words = said
    found = told(sign_in(first, grant))

    assert (True, True) == (found.startswith(kind), words in found)


def test_a_renewal_that_wants_a_window(first: Open, grant: Grant, broker: FakeBroker) -> None:
    """Only the person helps then; a broker without a network is tried again."""
    sign_in(first, grant)
    broker.silent_error = Error(Status.Status_NoNetwork)
    assert isinstance(service(first).acquire(grant, SCOPES), Transient)
    broker.silent_error = Error(Status.Status_InteractionRequired)
    assert isinstance(service(first).acquire(grant, SCOPES), Refused)
    broker.known.clear()

    assert "no-sign-in" in told(service(first).acquire(grant, SCOPES))


def test_no_library(first: Open, grant: Grant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the command that installs it is said."""
    monkeypatch.setitem(sys.modules, "pymsalruntime", None)
    monkeypatch.setenv("DISPLAY", ":0")

    assert f"in the source folder of cms, run `{sys.prefix}/bin/pip install '.[broker]'`" in told(sign_in(first, grant))


def test_an_msal_that_is_too_old(
    first: Open, grant: Grant, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command brings a newer one; everything but this way of signing in works with older ones."""
    monkeypatch.setattr(exchange, "_BROKER_ARGUMENT", "an_argument_of_tomorrow")

    assert "MSAL is older than 1.33" in told(sign_in(first, grant))
    assert [] == broker.asked


def test_no_broker(first: Open, grant: Grant, broker: FakeBroker) -> None:
    """MSAL would silently go on with a browser: cms does not."""
    broker.broken = True

    assert "install microsoft-identity-broker" in told(sign_in(first, grant))
    assert [] == broker.asked


def test_no_display(first: Open, grant: Grant, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window needs somewhere to be; Wayland is as good as X11."""
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert "systemctl --user import-environment DISPLAY" in told(sign_in(first, grant))

    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert isinstance(sign_in(first, grant), Granted)


def test_a_broker_that_hangs_is_left_alone(first: Open, grant: Grant, broker: FakeBroker) -> None:
    """MSAL waits for it without end; a person can still give up."""
    broker.silence = True

    assert "cancelled" in told(sign_in(first, grant, line=Patient(gives_up=True)))


class Silent(Call):
    """An exchange whose broker never answers, or fails in an unknown way."""

    def __init__(self, grant: Grant, ask: Callable[[], Any]) -> None:
        self.grant = grant
        self._ask = ask

    def ask(self, question: Callable[[], Any], who: str = "") -> Result:
        result: Result = self._ask()
        return result

    def arrived(self, moment: float) -> None:
        pass


def test_a_renewal_has_a_deadline(grant: Grant) -> None:
    """It is a transient fault like any other."""
    never = threading.Event()
    outcome = ms_broker.silently(Silent(grant, never.wait), SCOPES, {}, "", seconds=0.05)
    never.set()

    assert isinstance(outcome, Transient)
    assert ("timeout", "Microsoft's broker did not answer within 0.05 s") == (
        outcome.trouble.kind,
        outcome.trouble.message,
    )


def test_a_bug_is_raised_in_the_waiting_thread(grant: Grant) -> None:
    """It does not vanish with the thread."""

    def fail() -> None:
        raise LookupError("x")

    with pytest.raises(LookupError):
        ms_broker.silently(Silent(grant, fail), SCOPES, {}, "")


class RedirectUriError(ValueError):
    """Named as MSAL's own."""


def test_a_registration_without_the_brokers_redirect() -> None:
    """MSAL raises that; it is told as Entra's number for it."""

    def question() -> None:
        raise RedirectUriError

    assert {"error": "invalid_request", "error_codes": [50011]} == ms_broker.translated(question)


def test_what_else_msal_raises() -> None:
    """It is no answer, and left to who knows what that means."""

    def question() -> None:
        raise ValueError("garbled")

    with pytest.raises(ValueError, match="garbled"):
        ms_broker.translated(question)


class Typing(Patient):
    """A conversation whose person signs in with a browser."""

    def __init__(self, entra: Entra) -> None:
        super().__init__()
        self._entra = entra

    def wait(self, seconds: float) -> Mapping[str, str] | None:
        return self._entra.sign_in(self.prompted[0].url, ANN, follow=False).fields


def test_a_sign_in_in_a_browser_goes_on_by_itself(
    first: Open, grant: Grant, entra: Entra, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cms login --paste` of such an account keeps a separate refresh token, and asks no broker."""
    monkeypatch.setitem(sys.modules, "pymsalruntime", None)
    line = Typing(entra)
    outcome = service(first).sign_in(SignIn(1, grant, "paste"), line)

    assert isinstance(outcome, Granted)
    assert isinstance(service(first).acquire(grant, SCOPES), Granted)
