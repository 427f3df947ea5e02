"""The sandbox in another process: its verbs over loopback HTTP, below a path that only its starter knows.

remote = Remote(ready["control"])
remote.add_fault(Fault("status", status=503))
remote.sign_in(url, "a@example.test")
"""

from __future__ import annotations

import json
import secrets
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from typing import Any

from cms.sandbox import person
from cms.sandbox.directory import MAIL_SCOPES, Settings
from cms.sandbox.entra import Asked, Entra
from cms.sandbox.faults import CLAIMS, Fault
from cms.sandbox.submission import Submission
from cms.sandbox.web import Reply, Request, as_json

# Above every verb's own time; `wait_for` brings its own.
SECONDS = 30.0

_BAD_REQUEST = 400
_SETTINGS = frozenset(each.name for each in fields(Settings))


def attach(entra: Entra, submission: Submission | None = None) -> str:
    """Answer verbs on the plain HTTP server; return the address that a `Remote` takes. Call it after `start`."""
    path = f"/control/{secrets.token_urlsafe(24)}"
    verbs = _verbs(entra, submission)

    def answer(request: Request) -> Reply:
        try:
            asked = json.loads(request.body)
            return as_json({"result": verbs[asked["verb"]](**asked["with"])})
        except Exception as problem:  # noqa: BLE001 - whatever it is, the caller in the other process has to see it
            return as_json({"problem": f"{type(problem).__name__}: {problem}"}, _BAD_REQUEST)

    entra.serve(path, answer)
    return entra.plain_url + path


class RemoteError(Exception):
    """A verb failed in the sandbox."""


class Remote:
    """Speaks to a sandbox in another process. Each method does what `Entra`'s of the same name does."""

    def __init__(self, control: str) -> None:
        self._control = control
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        where = self._ask("describe")
        self.authority: str = where["authority"]
        self.ca_file: str = where["ca_file"]
        self.cert_file: str = where["cert_file"]
        self.introspect_url: str = where["introspect_url"]
        self.device_url: str = where["device_url"]

    def add_user(self, name: str, mailboxes: Iterable[str] = ()) -> None:
        """Make a user."""
        self._ask("add_user", name=name, mailboxes=list(mailboxes))

    def set(self, **settings: float) -> None:
        """Change `Settings`."""
        self._ask("set", **settings)

    def revoke(self, user: str, aadsts: int = 50173, *, access: bool = False) -> None:
        """Refuse what this user holds."""
        self._ask("revoke", user=user, aadsts=aadsts, access=access)

    def challenge(self, user: str, claims: str = CLAIMS) -> None:
        """Demand a sign-in with claims."""
        self._ask("challenge", user=user, claims=claims)

    def withdraw_consent(self, user: str, scope: str = "") -> None:
        """Forget consent."""
        self._ask("withdraw_consent", user=user, scope=scope)

    def mint(self, user: str, scopes: Iterable[str] = MAIL_SCOPES, life: float | None = None) -> str:
        """Return an access token without a sign-in."""
        return str(self._ask("mint", user=user, scopes=list(scopes), life=life))

    def introspect(self, token: str) -> dict[str, Any]:
        """Return what the introspection endpoint says."""
        told: dict[str, Any] = self._ask("introspect", token=token)
        return told

    def add_fault(self, fault: Fault) -> None:
        """Queue a fault."""
        self._ask("add_fault", **asdict(fault))

    def clear_faults(self) -> None:
        """Drop every fault, and end every silence."""
        self._ask("clear_faults")

    def go_down(self) -> None:
        """Refuse connections."""
        self._ask("go_down")

    def come_up(self) -> None:
        """Listen again."""
        self._ask("come_up")

    def asked(self, endpoint: str = "token", **wanted: object) -> list[Asked]:
        """Return the requests so far."""
        return [Asked(**each) for each in self._ask("asked", endpoint=endpoint, **wanted)]

    def count(self, endpoint: str = "token", **wanted: object) -> int:
        """Return how many requests there have been."""
        return len(self.asked(endpoint, **wanted))

    def wait_for(self, number: int, endpoint: str = "token", *, seconds: float = 60.0, **wanted: object) -> bool:
        """Wait until there have been so many requests."""
        return bool(self._ask("wait_for", number=number, endpoint=endpoint, seconds=seconds, **wanted))

    def messages(self) -> list[dict[str, Any]]:
        """Return what the submission server was sent: user, sender, recipients, content."""
        sent: list[dict[str, Any]] = self._ask("messages")
        return sent

    def sign_in(self, url: str, user: str, *, decision: str = "accept", follow: bool = True) -> person.Page:
        """Be the person at the browser, in this process: a redirect listener may look whose browser it is."""
        return person.sign_in(url, user, ca_file=self.ca_file, decision=decision, follow=follow)

    def approve_device(self, user_code: str, user: str, *, decision: str = "accept") -> None:
        """Be the person who enters the code of a device."""
        person.enter_code(self.device_url, user_code, user, ca_file=self.ca_file, decision=decision)

    def _ask(self, verb: str, **arguments: object) -> Any:
        body = json.dumps({"verb": verb, "with": arguments}).encode()
        request = urllib.request.Request(self._control, body)  # noqa: S310 - http, from the sandbox itself
        try:
            with self._opener.open(request, timeout=SECONDS) as answer:
                return json.load(answer)["result"]
        except urllib.error.HTTPError as refused:
            with refused:
                raise RemoteError(json.load(refused)["problem"]) from None


def _verbs(entra: Entra, submission: Submission | None) -> dict[str, Callable[..., Any]]:
    def add_user(name: str, mailboxes: list[str]) -> None:
        entra.add_user(name, mailboxes)

    def change(**settings: float) -> None:
        for name, value in settings.items():
            if name not in _SETTINGS:
                raise ValueError(f"no such setting: {name}")
            setattr(entra, name, value)

    return {
        "describe": lambda: describe(entra),
        "add_user": add_user,
        "set": change,
        "revoke": entra.revoke,
        "challenge": entra.challenge,
        "withdraw_consent": entra.withdraw_consent,
        "mint": entra.mint,
        "introspect": entra.introspect,
        "add_fault": lambda **told: entra.faults.add(Fault(**told)),
        "clear_faults": entra.faults.clear,
        "go_down": entra.go_down,
        "come_up": entra.come_up,
        "asked": lambda **told: [asdict(each) for each in entra.asked(**told)],
        "wait_for": entra.wait_for,
        "messages": lambda: [
            {**asdict(each), "content": each.content.decode(errors="replace")}
            for each in (submission.messages if submission else ())
        ],
    }


def describe(entra: Entra) -> dict[str, str]:
    """Return where everything of an Entra is."""
    names = ("authority", "ca_file", "cert_file", "introspect_url", "device_url")
    return {name: getattr(entra, name) for name in names}
