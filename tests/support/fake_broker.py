"""A stand-in for pymsalruntime, which MSAL reaches Microsoft's broker by: what `msal.broker` calls, and no more.

No real broker has been asked here: what this answers is what `msal.broker` of MSAL 1.39 reads.
"""

from __future__ import annotations

import enum
import inspect
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import msal
import pytest

from cms.sandbox.directory import TENANT
from cms.sandbox.tokens import client_info

# For tests that sign in by it.
of_newer_msal = pytest.mark.skipif(
    "enable_broker_on_linux" not in inspect.signature(msal.PublicClientApplication).parameters,
    reason="MSAL knows Microsoft's broker for Linux since 1.33",
)

Callback = Callable[["Ended"], None]


class LogLevel(enum.Enum):
    TRACE, DEBUG, FATAL = range(3)


class Status(enum.Enum):
    Status_AccountUnusable, Status_InteractionRequired, Status_UserCanceled, Status_NoNetwork = range(4)


class CallbackData:
    def __init__(self, *, is_interactive: bool = False) -> None:
        self.is_interactive = is_interactive
        self.signal = threading.Event()
        self.result: Any = None

    def complete(self, result: Ended) -> None:
        self.result = result
        self.signal.set()


@dataclass
class Error:
    status: Status
    context: str = ""

    def get_context(self) -> str:
        return self.context

    def get_status(self) -> Status:
        return self.status

    def get_error_code(self) -> int:
        return 1

    def get_tag(self) -> int:
        return 2


@dataclass
class Person:
    name: str

    def get_client_info(self) -> str:
        return client_info(self.name.partition("@")[0], TENANT)

    def get_account_id(self) -> str:
        return f"id of {self.name}"


class Parameters:
    def __init__(self, client_id: str, authority: str) -> None:
        self.told: dict[str, Any] = {"client_id": client_id, "authority": authority}

    def set_additional_parameter(self, name: str, value: str) -> None:
        self.told[name] = value

    def set_redirect_uri(self, value: str) -> None:
        self.told["redirect_uri"] = value

    def set_requested_scopes(self, value: list[str]) -> None:
        self.told["scopes"] = value

    def set_decoded_claims(self, value: str) -> None:
        self.told["claims"] = value


@dataclass
class Ended:
    """How a question ended."""

    error: Error | None = None
    person: Person | None = None
    scopes: tuple[str, ...] = ()

    def get_error(self) -> Error | None:
        return self.error

    def get_telemetry_data(self) -> dict[str, str]:
        return {}

    def get_account(self) -> Person | None:
        return self.person

    def get_id_token(self) -> str:
        assert self.person
        return json.dumps({"preferred_username": self.person.name, "oid": self.person.name, "tid": TENANT})

    def get_raw_id_token(self) -> str:
        return ""

    def is_pop_authorization(self) -> bool:
        return False

    def get_access_token(self) -> str:
        return f"brokered.token.{time.monotonic_ns()}"

    def get_access_token_expiry_time(self) -> int:
        return int(time.time()) + 3600

    def get_granted_scopes(self) -> list[str]:
        return list(self.scopes)


def forget() -> None:
    """Let MSAL look for the broker's library anew: it is imported once."""
    sys.modules.pop("msal.broker", None)
    vars(msal).pop("broker", None)


@dataclass
class FakeBroker:
    """The broker: `window` is who signs in in it, or how that ends; `known` are its accounts; it may not answer."""

    window: Person | Error
    silent_error: Error | None = None
    silence: bool = False
    broken: bool = False
    known: dict[str, Person] = field(default_factory=dict)
    # What each question asked: its kind, and what it was told.
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def module(self) -> ModuleType:
        """Return what `import pymsalruntime` is to give."""
        made = ModuleType("pymsalruntime")
        names: dict[str, Any] = {
            "LogLevel": LogLevel,
            "Response_Status": Status,
            "CallbackData": CallbackData,
            "MSALRuntimeAuthParameters": Parameters,
            "register_logging_callback": self._register,
            "get_console_window": lambda: 1,
            "get_desktop_window": lambda: 2,
            "read_account_by_id": self._read_account,
            "signin_silently": self._signin_silently,
            "signin_interactively": self._signin_interactively,
            "acquire_token_silently": self._acquire_token_silently,
        }
        for name, value in names.items():
            setattr(made, name, value)
        return made

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let MSAL find this broker, once it has forgotten any other (`forget`)."""
        monkeypatch.setitem(sys.modules, "pymsalruntime", self.module())
        monkeypatch.setenv("DISPLAY", ":0")

    def _register(self, _callback: object) -> None:
        if self.broken:
            raise RuntimeError("no broker on this machine")

    def _answer(self, kind: str, told: dict[str, Any], callback: Callback, ended: Ended) -> None:
        self.asked.append((kind, told))
        if not self.silence:
            callback(ended)

    def _read_account(self, account_id: str, _correlation: str, callback: Callback) -> None:
        found = self.known.get(account_id)
        callback(Ended(None if found else Error(Status.Status_AccountUnusable), found))

    def _signin_silently(self, params: Parameters, _correlation: str, callback: Callback) -> None:
        self._answer("silent", params.told, callback, Ended(Error(Status.Status_InteractionRequired)))

    def _signin_interactively(
        self, _window: int, params: Parameters, _correlation: str, login_hint: str | None, callback: Callback
    ) -> None:
        told = {**params.told, "login_hint": login_hint}
        if isinstance(self.window, Error):
            self._answer("window", told, callback, Ended(self.window))
        else:
            self.known[self.window.get_account_id()] = self.window
            self._answer("window", told, callback, Ended(None, self.window, tuple(params.told["scopes"])))

    def _acquire_token_silently(
        self, params: Parameters, _correlation: str, account: Person, callback: Callback
    ) -> None:
        ended = Ended(self.silent_error, account, tuple(params.told["scopes"]))
        self._answer("renewal", params.told, callback, ended)
