"""Sign-in without a person: what an application proves itself with, and what its refusals mean.

Everything is read anew at each mint: a renewed certificate, a secret that was replaced and an assertion that Kubernetes
or a pipeline has rotated are used without anybody's saying so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cms.accounts import Grant, Source
from cms.grants import catalogue, certificates
from cms.grants.keys import Missing, read_source
from cms.grants.vault import Unavailable
from cms.lifecycle import LONGEST_PAUSE, Outcome, Refused, Transient, Trouble

# How soon a refusal is looked at again: what is mended in Entra, or in a file, tells nobody here of it.
AGAIN_SECONDS = LONGEST_PAUSE


@dataclass(frozen=True, slots=True)
class Credential:
    """What an application proves itself with: `value` as MSAL takes it, "" for a public client.

    `expires` is the Unix time at which a certificate ends, 0 where nobody can tell.
    """

    value: str | Mapping[str, Any] = field(default="", repr=False)
    expires: float = 0.0


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
                f"check {name} of the account in the configuration; {catalogue.RETRIES}",
            )
        )
    )


# What Entra's refusals mean for an application (Microsoft: "Microsoft Entra authentication and authorization error
# codes"), and what mends them. `{credential}` is the argument that names what it proves itself with.
_THEN = "then wait, or `cms refresh`"
_REGISTRATION = (
    f"check client_id= and tenant= of the account in the configuration, then `cms reload`; or {{consent}}, {_THEN}"
)
_CONSENT = "have the administrator consent to the application in that tenant"

_BY_NUMBERS: dict[tuple[int, ...], tuple[str, str]] = {
    (7000215,): (
        "the client secret is wrong",
        f"put the secret's value, which is not its id, where {{credential}} points; {_THEN}",
    ),
    (7000222,): (
        "the client secret has expired",
        f"make a new secret in the registration and put its value where {{credential}} points; {_THEN}",
    ),
    (7000216, 7000218): (
        "the application has proved itself with nothing that its registration knows",
        "give client_secret, certificate or client_assertion of the account in the configuration, then `cms reload`",
    ),
    (700027, 700030, 50012, 5000224): (
        "the certificate was not accepted: it has expired, or the registration does not have it",
        f"upload the certificate, without its key, to the registration, and check this machine's clock; {_THEN}",
    ),
    (700024,): (
        "the assertion is not valid now: it has expired, or a clock is wrong",
        f"see that what {{credential}} points to is rotated in time, and check this machine's clock; {_THEN}",
    ),
    (70021, 700211, 700212, 700213, 700214): (
        "no federated credential of the application fits the assertion",
        f"a federated credential in the registration must have the assertion's issuer, subject and audience; {_THEN}",
    ),
    (700021, 50027, 50013): (
        "the assertion is not one that Entra can use",
        f"see that {{credential}} points to an assertion for this application, issued by whom it trusts; {_THEN}",
    ),
    (700016, 70001): ("the tenant does not know the application", _REGISTRATION.replace("{consent}", _CONSENT)),
    (7000229, 501051, 50105, 65001): (
        "the application has no permission in the tenant yet",
        f"{_CONSENT}: docs/microsoft-setup.md has the steps; {_THEN}",
    ),
    (7000112,): ("the application was disabled", f"have its owner enable it, {_THEN}; or use another client_id"),
    (90002, 90038, 50059): (
        "the tenant does not exist in this cloud",
        "check tenant= and cloud= of the account in the configuration, then `cms reload`",
    ),
    (9001023, 50194): (
        "an application needs the tenant that it works in",
        "set tenant= of the account to the tenant's GUID or domain, then `cms reload`",
    ),
    (500011, 650052, 50001): (
        "the tenant has no Exchange Online for this request",
        f"check the subscription, {_THEN}; or cloud= of the account in the configuration, then `cms reload`",
    ),
    (70011, 1002012, 28000, 700022): (
        "the scope is not one that an application can ask for",
        "check scopes= of the account: one resource's .default, and nothing else; then `cms reload`",
    ),
    (53003, 53004, 530035, 530031): (
        "a conditional-access policy of the organisation blocks the application",
        f"the administrator has to exempt it, or allow this machine's address; {_THEN}",
    ),
}
ROWS = {number: row for numbers, row in _BY_NUMBERS.items() for number in numbers}

_OTHER = (
    "the provider refused the application",
    f"check its registration, {_THEN}; or client_id=, tenant= and {{credential}} of the account, then `cms reload`",
)

# IMDS, the App Service and Azure Arc answer in error words of their own, which say less than the status.
_NO_IDENTITY = (
    "this machine has no such managed identity",
    f"assign it in Azure (`az vm identity assign`), {_THEN}; or name another in client_id=, then `cms reload`",
)


def explain(outcome: Outcome, grant: Grant) -> Outcome:
    """Return what a refusal means where nobody signs in: nobody is told to, and it is looked at again by itself."""
    if not isinstance(outcome, Refused):
        return outcome
    trouble = outcome.trouble
    if trouble.kind == "application":
        return Refused(trouble, AGAIN_SECONDS)
    evidence = trouble.message.rpartition(" (")[2].removesuffix(")")
    if grant.sign_in == "managed-identity":
        message, hint = _NO_IDENTITY
    else:
        message, hint = ROWS.get(trouble.aadsts or 0, _OTHER)
    told = replace(
        trouble, kind="application", message=f"{message} ({evidence})", hint=hint.replace("{credential}", _named(grant))
    )
    return Refused(told, AGAIN_SECONDS)


def _named(grant: Grant) -> str:
    """Return the argument that names what the application proves itself with."""
    names = ("client_secret", "certificate", "client_assertion")
    return next((name for name in names if getattr(grant, name)), "the credential")


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
