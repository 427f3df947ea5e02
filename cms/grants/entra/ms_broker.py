"""Sign-in through Microsoft's broker for Linux, using MSAL.

Microsoft's broker keeps the refresh tokens itself, and proves to Entra that this device is managed. MSAL needs an
optional library for it, imported on first use, which waits for an answer without a time limit. So each question runs in
a new thread, which is abandoned when its time is up.
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
from cms.grants.entra.exchange import Call, Result, challenge
from cms.grants.exchange import UnusableAnswer
from cms.grants.providers import ExchangeEnd
from cms.system import threads
from cms_oauth.moves import RETRIES, Command, Move, Run, fill

# A question without a window. This leaves some of messages.QUESTION_SECONDS for the vault and its key.
SILENT_SECONDS = 20.0

# How often to check whether Microsoft's broker has answered while its window is open.
LOOK_SECONDS = 0.5

# The errors of Microsoft's broker for a question that needs a window, and for an account that is no longer usable.
_WANTS_A_PERSON = ("InteractionRequired", "AccountUnusable")
_GIVEN_UP = "UserCanceled"
_AADSTS = re.compile(r"AADSTS\d")


def unavailable(why: str, hint: str) -> Transient:
    """Return the outcome if Microsoft's broker cannot be used."""
    return Transient(Trouble("broker", f"Microsoft's broker cannot be asked: {why}", hint))


NO_LIBRARY = unavailable(
    "MSAL's library for it is not installed, or MSAL is older than 1.33",
    # No package index has cms: see docs/install.md.
    Move(
        "in the source folder of cms, run ",
        Run((Command((f"{sys.prefix}/bin/pip", "install", ".[broker]")),)),
        ", and restart cms; ",
        RETRIES,
    ),
)
NOT_RUNNING = unavailable(
    "it does not start", fill("install microsoft-identity-broker and intune-portal on this desktop; {retries}")
)


def no_display(environ: Mapping[str, str]) -> Transient | None:
    """Return the outcome if there is no display for the window of Microsoft's broker, else None."""
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
    """A sign-in in the window of Microsoft's broker, which opens with `answered`."""

    url = user_code = complete_url = state = redirect_uri = ""

    def __init__(self, call: Call, scopes: Scopes, claims: str, seconds: float) -> None:
        self.expires_in = seconds
        self._call = call
        self._scopes = scopes
        self._claims = claims

    def answered(self, wait: Callable[[float], object]) -> ExchangeEnd:
        """Open the window and wait for the person. `wait` waits some seconds, and raises if the sign-in is cancelled."""
        grant, app = self._call.grant, self._call.app

        def question() -> Any:
            return app.acquire_token_interactive(
                list(self._scopes),
                prompt=grant.prompt,
                login_hint=grant.login or None,
                parent_window_handle=app.CONSOLE_WINDOW_HANDLE,
                **challenge(self._claims),
            )

        result = _awaited(_ask(self._call, question), self.expires_in, wait)
        return self._call.signed_in(result, self._scopes)


def _ask(call: Call, question: Callable[[], Any], who: str = "") -> Future[Result]:
    """Ask in a new thread, which never ends if Microsoft's broker does not answer."""

    def run() -> Result:
        result = call.ask(lambda: translated(question), who)
        call.counts_from(time.clock_gettime(time.CLOCK_BOOTTIME))
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
    """Return MSAL's result, with Microsoft's errors translated into the OAuth errors of `cms.core.refusals`."""
    try:
        result = question()
    except ValueError as error:
        if type(error).__name__ != "RedirectUriError":
            raise
        # A class of msal.broker, raised if the registration lacks the redirect address of Microsoft's broker.
        return {"error": "invalid_request", "error_codes": [50011]}
    except KeyError:
        # MSAL looks into the access token before it looks whether there is one.
        raise UnusableAnswer("there is no access token in it") from None
    if not isinstance(result, dict) or result.get("error") != "broker_error":
        return result
    # Only this field has the status of Microsoft's broker.
    said = str(result.get("error_description"))
    if any(word in said for word in _WANTS_A_PERSON) or _AADSTS.search(said):
        return {**result, "error": "interaction_required"}
    return {**result, "error": "access_denied" if _GIVEN_UP in said else "temporarily_unavailable"}
