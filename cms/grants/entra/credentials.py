"""Sign-in without a person: what an application proves itself with, and what its refusals mean.

Everything is read anew at each mint: a renewed certificate, a secret that was replaced and an assertion that Kubernetes
or a pipeline has rotated are used without anybody's saying so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cms.core import refusals
from cms.core.accounts import Grant, Source
from cms.core.lifecycle import LONGEST_PAUSE, Granted, Outcome, Refused, Transient, Trouble
from cms.grants.entra import certificates
from cms.grants.secrets import Missing, Unavailable, read_source
from cms_oauth.diagnosis.entra import NO_IDENTITY, row_of_application

# How soon a refusal is looked at again: what is mended in Entra, or in a file, tells nobody here of it.
AGAIN_SECONDS = LONGEST_PAUSE


@dataclass(frozen=True, slots=True)
class Credential:
    """What an application proves itself with: `value` as MSAL takes it, "" for a public client.

    `expires` is the Unix time at which a certificate ends, 0 where nobody can tell.
    """

    value: str | Mapping[str, Any] = field(default="", repr=False)
    expires: float = 0.0

    def behind(self, outcome: Outcome) -> Outcome:
        """Return an outcome that was had by this, which says until when that works."""
        return replace(outcome, credential_expires=self.expires) if isinstance(outcome, Granted) else outcome


NONE = Credential()


def credential(grant: Grant) -> Credential:
    """Return what the grant's application proves itself with, read now. Raises Unavailable."""
    if grant.client_secret:
        return Credential(_text("client_secret", grant.client_secret))
    if grant.client_assertion:
        # Kubernetes mounts its tokens readable by all of the pod.
        assertion = _text("client_assertion", grant.client_assertion, private=False)
        return Credential({"client_assertion": lambda: assertion})
    if grant.certificate:
        return _certificate(grant.certificate, grant.certificate_password)
    return NONE


def _certificate(source: Source, password: Source | None) -> Credential:
    opened_by = _read("certificate_password", password).rstrip(b"\r\n") if password else b""
    try:
        found = certificates.parse(_read("certificate", source), opened_by)
    except certificates.Unusable as unusable:
        raise _unavailable("certificate", source, str(unusable)) from None
    return Credential({"private_key": found.private_key, "public_certificate": found.public}, found.expires)


def _text(name: str, source: Source, *, private: bool = True) -> str:
    try:
        found = _read(name, source, private=private).decode("ascii").strip()
    except UnicodeDecodeError:
        raise _unavailable(name, source, "is no text") from None
    if not found:
        raise _unavailable(name, source, "is empty")
    return found


def _read(name: str, source: Source, *, private: bool = True) -> bytes:
    try:
        return read_source(source, private=private)
    except Missing as missing:
        raise _unavailable(name, source, str(missing)) from None


def _unavailable(name: str, source: Source, why: str) -> Unavailable:
    what = name.replace("_", " ")
    return Unavailable(
        Transient(
            Trouble(
                "locked",
                f"the {what} cannot be had: {source} {why}",
                f"check {name} of the account in the configuration; {refusals.RETRIES}",
            )
        )
    )


def explain(outcome: Outcome, grant: Grant) -> Outcome:
    """Return what a refusal means where nobody signs in: nobody is told to, and it is looked at again by itself."""
    if not isinstance(outcome, Refused):
        return outcome
    trouble = outcome.trouble
    if trouble.kind == "application":
        return Refused(trouble, AGAIN_SECONDS)
    evidence = trouble.message.rpartition(" (")[2].removesuffix(")")
    row = NO_IDENTITY if grant.sign_in == "managed-identity" else row_of_application(trouble.aadsts)
    hint = refusals.hint(row.hint, grant)
    told = replace(trouble, kind="application", message=f"{row.message} ({evidence})", hint=hint)
    return Refused(told, AGAIN_SECONDS)


def certificate_expiry(grant: Grant, read: Callable[[Source], bytes] = read_source) -> float:
    """Return when the application's certificate ends, as Unix time, 0 for none or one that cannot be read without more.

    For `cms check`: no command is run and no key is opened but a PKCS #12 file's.
    """
    sources = [each for each in (grant.certificate, grant.certificate_password) if each]
    if not grant.certificate or any(each.kind == "command" for each in sources):
        return 0.0
    try:
        password = read(grant.certificate_password).rstrip(b"\r\n") if grant.certificate_password else b""
        return certificates.expiry(read(grant.certificate), password)
    except (Missing, certificates.Unusable):
        return 0.0
