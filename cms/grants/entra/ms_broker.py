"""Sign-in through Microsoft's broker for Linux, by way of MSAL: who it is for, and how long it is waited for.

The broker keeps the refresh tokens itself, and proves to Entra that this device is managed. MSAL's side of it is an
optional library, imported when the first such question comes; it waits for the broker without end. So every question is
put in a new thread, which is abandoned when its time is over.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from cms.core.accounts import Scopes
from cms.core.lifecycle import Transient, Trouble
from cms.grants.entra.exchange import Answer, Call, Result
from cms.system import threads
from cms_oauth.moves import RETRIES, Command, Move, Run, fill

# A question without a window. This leaves some of messages.QUESTION_SECONDS for the vault and its key.
SILENT_SECONDS = 20.0

# How often the wait for a window looks whether the broker has answered: only the browser's end wakes it otherwise.
LOOK_SECONDS = 0.5

# What the broker calls a question that wants a window, or an account that is no longer good for anything.
_WANTS_A_PERSON = ("InteractionRequired", "AccountUnusable")
_GIVEN_UP = "UserCanceled"
_AADSTS = re.compile(r"AADSTS\d")


def unavailable(why: str, hint: str) -> Transient:
    """Say that the broker cannot be asked at all."""
    return Transient(Trouble("broker", f"Microsoft's broker cannot be asked: {why}", hint))


NO_LIBRARY = unavailable(
    "MSAL's library for it is not installed",
    # As README installs cms: no index of packages has it.
    Move(
        "where the source of cms is, say ",
        Run((Command((f"{sys.prefix}/bin/pip", "install", ".[broker]")),)),
        ", and start cms again; ",
        RETRIES,
    ),
)
NOT_RUNNING = unavailable(
    "it does not start", fill("install microsoft-identity-broker and intune-portal on this desktop; {retries}")
)


def no_display(environ: Mapping[str, str]) -> Transient | None:
    """Return what to say where the broker's window would have nowhere to be, None where it has."""
    if environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"):
        return None
    return unavailable(
        "its window needs a graphical session, and cms was started without one (DISPLAY and WAYLAND_DISPLAY)",
        fill(
            "in a terminal of the desktop: `systemctl --user import-environment DISPLAY WAYLAND_DISPLAY XAUTHORITY`, start "
            "cms again; {retries}"
        ),
    )


def silently(
    call: Call, scopes: Scopes, account: Mapping[str, Any], who: str, seconds: float = SILENT_SECONDS
) -> Result:
    """Ask for a token without a window."""

    def question() -> Any:
        return call.app.acquire_token_silent_with_error(list(scopes), account, force_refresh=True)

    asked = _ask(call, question, who)
    return _awaited(asked, seconds, lambda some: _look(asked, some))


def _look(asked: Future[Result], seconds: float) -> None:
    try:
        asked.exception(seconds)
    except TimeoutError:
        return


class BrokerFlow:
    """A sign-in in the broker's window, which opens with `answered`."""

    url = user_code = state = redirect_uri = ""

    def __init__(self, call: Call, scopes: Scopes, claims: str, seconds: float) -> None:
        self.expires_in = seconds
        self._call = call
        self._scopes = scopes
        self._claims = claims or None

    def answered(self, wait: Callable[[float], object]) -> Answer:
        """Open the window, and wait for the person. `wait` passes some seconds, and raises if that is given up."""
        grant, app = self._call.grant, self._call.app

        def question() -> Any:
            return app.acquire_token_interactive(
                list(self._scopes),
                prompt=grant.prompt,
                login_hint=grant.login or None,
                claims_challenge=self._claims,
                parent_window_handle=app.CONSOLE_WINDOW_HANDLE,
            )

        result = _awaited(_ask(self._call, question), self.expires_in, wait)
        return self._call.signed_in(result, self._scopes)


def _ask(call: Call, question: Callable[[], Any], who: str = "") -> Future[Result]:
    """Put a question in a new thread: one that the broker does not answer never ends."""

    def run() -> Result:
        result = call.ask(lambda: translated(question), who)
        call.arrived(time.clock_gettime(time.CLOCK_BOOTTIME))
        return result

    return threads.start(run)


def _awaited(asked: Future[Result], seconds: float, wait: Callable[[float], object]) -> Result:
    deadline = time.monotonic() + seconds
    while not asked.done() and (left := deadline - time.monotonic()) > 0:
        wait(min(left, LOOK_SECONDS))
    if asked.done():
        return asked.result()
    return Transient(
        Trouble("timeout", f"Microsoft's broker did not answer within {seconds:g} s", fill("{nothing_to_do}"))
    )


def translated(question: Callable[[], Any]) -> Any:
    """Return MSAL's result with the broker's errors as OAuth's, which the catalogue knows."""
    try:
        result = question()
    except ValueError as error:
        if type(error).__name__ != "RedirectUriError":
            raise
        # msal.broker's own class, for a registration without the broker's redirect.
        return {"error": "invalid_request", "error_codes": [50011]}
    if not isinstance(result, dict) or result.get("error") != "broker_error":
        return result
    # MSAL names the broker's status in here only.
    said = str(result.get("error_description"))
    if any(word in said for word in _WANTS_A_PERSON) or _AADSTS.search(said):
        return {**result, "error": "interaction_required"}
    return {**result, "error": "access_denied" if _GIVEN_UP in said else "temporarily_unavailable"}
