"""Explains what a mail server or Entra answered: the cause, who can fix it, and the exact fix.

A reply is looked up in tables and the possible causes are ranked by the evidence; a reply that no row matches is shown
as it is. Pure. `cms-oauth --test-...`, `cms doctor` and docs/troubleshooting.md all use it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from cms_oauth import moves
from cms_oauth.claims import Claims, claims_of
from cms_oauth.diagnosis import certificates, challenge, entra, local, mail, servers
from cms_oauth.diagnosis.times import clock_of, span, wait_of
from cms_oauth.diagnosis.verdicts import (
    MOVERS,
    UNKNOWN,
    Evidence,
    Verdict,
    all_lines,
    as_data,
    evidence_data,
    fill_in,
    for_powershell,
    identifiers_of,
    printable,
)
from cms_oauth.microsoft import (
    CLOUDS,
    EXCHANGE,
    OTHERS,
    PERMISSIONS,
    PERSONAL_TENANT,
    ROLES,
    cloud_of_exchanger,
    clouds_of_audience,
    clouds_of_server,
    is_personal,
    resource_name,
)
from cms_oauth.providers import MICROSOFT, PROVIDERS, of_host

__all__ = (
    "MOVERS",
    "Claims",
    "Evidence",
    "Verdict",
    "all_lines",
    "as_data",
    "claims_of",
    "clock_of",
    "diagnose",
    "evidence_data",
    "identifiers_of",
    "is_greeting",
    "is_stale",
    "may_be_stale",
    "of_client",
    "of_entra",
    "of_row",
    "printable",
)

# The longest part of a reply that is shown: enough for a person to recognise it.
_MAX_TEXT = 512

# Recognises Exchange by a greeting or a reply if the host name does not tell.
_EXCHANGE = re.compile(r"microsoft|\.outlook\.com|\.office365\.", re.IGNORECASE)

# The servers for personal accounts, with former names of Outlook.com's IMAP and POP servers.
_FOR_PERSONAL = {
    "smtp": re.compile(r"smtp[a-z-]*\.outlook\.com", re.IGNORECASE),
    "imap": re.compile(r"outlook\.office365\.com|imap[a-z-]*\.outlook\.com", re.IGNORECASE),
    "pop": re.compile(r"outlook\.office365\.com|pop[a-z-]*\.outlook\.com", re.IGNORECASE),
}

# Entra and Exchange tolerate five minutes of clock skew.
_SKEW_SECONDS = 300.0

# The argument of Set-CASMailbox that switches a protocol on.
_SWITCHES = {
    "smtp": "-SmtpClientAuthenticationDisabled $false",
    "imap": "-ImapEnabled $true",
    "pop": "-PopEnabled $true",
}

# How servers say, during the login, that a token is invalid or no longer valid (RFC 7628, 3.2.2; Dovecot).
_STALE = re.compile(r"invalid_token|expired|revoked|\"status\":\s*\"?401", re.IGNORECASE)

Finding = Callable[[str, Evidence], Verdict | None]


def diagnose(protocol: str, reply: str, evidence: Evidence | None = None) -> tuple[Verdict, ...]:
    """Return the possible causes of a reply, the likeliest first; at least one.

    `protocol` is "smtp", "imap" or "pop"; `reply` is the server's text, starting with the code.
    """
    evidence, reply = evidence or Evidence(), printable(reply).strip()
    provider = servers.whose(f"{reply}\n{evidence.greeting}", evidence.host)
    software = f"a server of {provider.title}" if provider else _software(reply, evidence)
    row = _row_of(protocol, reply)
    known = servers.causes(provider, reply) if provider else ()
    verdicts = known or tuple(_ranked(row, protocol, evidence, software))
    if software and not known:
        unsaid = servers.SILENT if provider else servers.UNSAID if servers.is_of_others(evidence) else mail.OTHER_SERVER
        verdicts = tuple(servers.elsewhere(each, unsaid) for each in verdicts)
    owner = provider.name if provider else MICROSOFT if _is_exchange(evidence) else ""
    if servers.strangers(servers.provider_of_account(evidence), owner) and not evidence.accepted:
        # What such a server says of the token explains nothing.
        verdicts = (servers.OTHER_PROVIDER, *(verdicts if row and not row.unsaid and not known else ()))
    values = _values(protocol, reply, evidence) | {"software": software, "server_of": servers.title(owner)}
    return tuple(_unknown(reply) if each.name == UNKNOWN else fill_in(each, values) for each in dict.fromkeys(verdicts))


def is_greeting(protocol: str, line: str) -> bool:
    """Return True if this may be the first line of a mail server of this protocol."""
    return mail.GREETINGS[protocol].match(line) is not None and _service(protocol, line) in ("", _MAIL[protocol])


# What `mail.SERVICES` calls the server of each protocol.
_MAIL = {"smtp": "an SMTP server", "imap": "an IMAP server", "pop": "a POP server"}


def _service(protocol: str, greeting: str) -> str:
    """Return what kind of server greets like this, "" where the greeting does not tell; a mail server's may say anything."""
    found = next((name for pattern, name in mail.SERVICES if pattern.match(greeting)), "")
    return found or ("" if not greeting or mail.GREETINGS[protocol].match(greeting) else "no mail server")


def _row_of(protocol: str, reply: str) -> mail.MailRow | None:
    return next((row for row in mail.ROWS if protocol in row.protocols and row.pattern.search(reply)), None)


def _shown(protocol: str, evidence: Evidence) -> list[Verdict]:
    """Return the causes that the evidence alone shows."""
    return list(dict.fromkeys(filter(None, (finding(protocol, evidence) for finding in _FINDINGS))))


def _ranked(row: mail.MailRow | None, protocol: str, evidence: Evidence, software: str) -> Sequence[Verdict]:
    """Return a row's causes and those that the evidence shows; the latter come first if the reply names no cause.

    Where nobody knows the reply, that is said, and before all guesses. `software` is what the server is, "" for Exchange.
    """
    if _service(protocol, evidence.greeting) not in ("", _MAIL[protocol]):
        return [mail.OTHER_SERVICE]
    place = [mail.EXCHANGER] if cloud_of_exchanger(evidence.host) else []
    if row is None:
        return [*place, mail.UNKNOWN, *([mail.OTHER_SERVER] if software else [])]
    shown = _shown(protocol, evidence)
    fitting = _fitting(row, protocol, evidence)
    certain = [each for each in shown if each.name in _CERTAIN]
    if software and (row.unsaid or row.causes[0].mover == "administrator"):
        # Exchange's administrators cannot fix another server.
        said = [each for each in shown if each in (mail.EXPIRED, mail.WANTED_SCOPE, mail.ISSUER)]
        return [*place, *said, mail.OTHER_SERVER, *(each for each in shown if each.name in _ANYWHERE)]
    if row.guess:
        return [*place, *certain, mail.UNKNOWN, *(shown if row.unsaid else []), *fitting]
    clock = [each for each in shown if each is mail.CLOCK and certificates.OF_TIME & {*fitting}]
    return [*place, *shown, *fitting] if row.unsaid else [*place, *clock, *fitting, *certain]


def _fitting(row: mail.MailRow, protocol: str, evidence: Evidence) -> list[Verdict]:
    """Return a row's possible causes; those of personal accounts come last unless the account is personal."""
    fitting = [each for each in row.causes if _fits(each, protocol, evidence)] or list(row.causes)
    return fitting if _is_personal(evidence) else sorted(fitting, key=_is_of_personal_accounts)


def is_stale(verdicts: Sequence[Verdict]) -> bool:
    """Return True if the likeliest cause is an expired or revoked token, so that a new one may help."""
    first = [each.name for each in verdicts if each.name not in _NO_CAUSES][:1]
    return first in ([mail.EXPIRED.name], [mail.REVOKED.name])


# Verdicts that leave open whether the token is good.
_NO_CAUSES = {
    each.name for each in (mail.OTHER_SERVER, servers.SILENT, servers.UNSAID, mail.UNKNOWN, mail.SERVICE_PRINCIPAL)
}


def may_be_stale(protocol: str, reply: str, evidence: Evidence) -> bool:
    """Return True if Exchange refused the login without a reason and the token looks valid.

    Exchange does not say that a token is revoked; a refusal like this is the only sign.
    """
    row = _row_of(protocol, printable(reply).strip())
    return row is not None and row.unsaid and _is_exchange(evidence) and not _shown(protocol, evidence)


def _expired(_: str, evidence: Evidence) -> Verdict | None:
    if not evidence.claims or evidence.claims.expires is None or evidence.now is None:
        return None
    if evidence.claims.expires > evidence.now - (evidence.skew or 0):
        return None
    return mail.CLOCK if evidence.claims.expires > evidence.now else mail.EXPIRED


def _revoked(_: str, evidence: Evidence) -> Verdict | None:
    """Find a token that the server calls invalid.

    Dovecot says so of every token it refuses, even another user's, and Exchange of one of an application without a
    service principal.
    """
    if _is_other_user(evidence) or _is_application(evidence):
        # There is a likelier reason.
        return None
    return mail.REVOKED if _STALE.search(evidence.challenge) else None


def _perhaps_revoked(_: str, evidence: Evidence) -> Verdict | None:
    return mail.REVOKED if _STALE.search(evidence.challenge) else None


def _shared_syntax(_: str, evidence: Evidence) -> Verdict | None:
    return mail.SHARED_SYNTAX if "\\" in evidence.user else None


def _audience(_: str, evidence: Evidence) -> Verdict | None:
    """Find a token that is not for Exchange. Other servers may accept any token, except one for a known other resource."""
    name = resource_name(evidence.claims.audience) if evidence.claims else ""
    foreign = name and _is_exchange(evidence) and name != EXCHANGE
    return mail.AUDIENCE if foreign or name in OTHERS else None


def _cloud(_: str, evidence: Evidence) -> Verdict | None:
    token = clouds_of_audience(evidence.claims.audience) if evidence.claims else ()
    server = clouds_of_server(evidence.host)
    return mail.CLOUD if token and server and not set(token) & set(server) else None


def _scope(protocol: str, evidence: Evidence) -> Verdict | None:
    claims = evidence.claims
    if claims is None or claims.application or not claims.scopes or servers.is_of_others(evidence):
        return None
    return None if PERMISSIONS[protocol.upper()].lower() in map(_permission, claims.scopes) else mail.SCOPE


def _role(protocol: str, evidence: Evidence) -> Verdict | None:
    claims = evidence.claims
    if claims is None or not claims.application or ROLES[protocol.upper()].lower() in map(_permission, claims.roles):
        return None
    # SMTP needs no permission in Entra if Exchange has assigned a role to the application.
    return mail.APPLICATION_ROLE if claims.roles or protocol != "smtp" else None


def _application(_: str, evidence: Evidence) -> Verdict | None:
    return mail.SERVICE_PRINCIPAL if _is_application(evidence) else None


def _user(protocol: str, evidence: Evidence) -> Verdict | None:
    """Find a token of another user: one who opens Exchange's shared mailbox, or whom the server does not accept for this login."""
    if not _is_other_user(evidence):
        return None
    return mail.OTHER_USER if protocol == "smtp" or not _is_exchange(evidence) else mail.FULL_ACCESS


def _personal_host(protocol: str, evidence: Evidence) -> Verdict | None:
    """Find a Microsoft server that does not serve personal accounts."""
    microsofts = bool(clouds_of_server(evidence.host))
    wrong = microsofts and _is_personal(evidence) and not _FOR_PERSONAL[protocol].fullmatch(evidence.host)
    return mail.PERSONAL_HOST if wrong else None


def _clock(_: str, evidence: Evidence) -> Verdict | None:
    return mail.CLOCK if abs(evidence.skew or 0) > _SKEW_SECONDS else None


# In order of weight: what makes any server refuse, then what Exchange requires, then what is only likely.
_FINDINGS: tuple[Finding, ...] = (
    _expired,
    challenge.scope,
    challenge.issuer,
    _revoked,
    _shared_syntax,
    _audience,
    _cloud,
    _scope,
    _role,
    _user,
    _application,
    _perhaps_revoked,
    _personal_host,
    _clock,
)

# Findings that are reported even if the reply names another cause, and those that apply to any server.
_CERTAIN = {each.name for each in (mail.EXPIRED, mail.AUDIENCE, mail.SCOPE, mail.CLOUD)}
_ANYWHERE = {each.name for each in (mail.CLOCK, mail.REVOKED, mail.AUDIENCE, mail.OTHER_USER, mail.FULL_ACCESS)}


def _fits(cause: Verdict, protocol: str, evidence: Evidence) -> bool:
    """Return True if the evidence does not rule the cause out."""
    personal = _is_personal(evidence)
    if _is_of_personal_accounts(cause):
        return personal or _may_be_personal(evidence)
    if cause.mover == "administrator" and personal:
        return False
    if cause is mail.SERVICE_PRINCIPAL:
        return evidence.claims is None or evidence.claims.application
    if cause in (mail.FULL_ACCESS, mail.OTHER_USER):
        return evidence.claims is None or _user(protocol, evidence) is not None
    return True


def _is_other_user(evidence: Evidence) -> bool:
    claimed = evidence.claims.user if evidence.claims else ""
    return bool(claimed and evidence.user) and claimed.lower() != evidence.user.lower()


def _is_application(evidence: Evidence) -> bool:
    return evidence.claims is not None and evidence.claims.application


def _is_of_personal_accounts(cause: Verdict) -> bool:
    return cause.name.startswith("personal-")


def _may_be_personal(evidence: Evidence) -> bool:
    """Return True if it is unknown whether the account is personal: a personal address may have any domain."""
    return evidence.personal is None and evidence.claims is None


def _is_personal(evidence: Evidence) -> bool:
    if evidence.personal is not None:
        return evidence.personal
    tenant = evidence.claims.tenant if evidence.claims else ""
    return tenant == PERSONAL_TENANT or is_personal(evidence.user.rpartition("@")[2])


def _is_exchange(evidence: Evidence) -> bool:
    return bool(clouds_of_server(evidence.host) or _EXCHANGE.search(evidence.greeting))


def _software(reply: str, evidence: Evidence) -> str:
    """Return what server this is if it is not Exchange; "" for Exchange, or if nothing is known of it."""
    said = f"{reply}\n{evidence.greeting}"
    if _EXCHANGE.search(said):
        return ""
    name = next((name for name, pattern in mail.SOFTWARE if any(map(pattern.search, said.split("\n")))), "")
    if name:
        return f"a server with {name}"
    if clouds_of_server(evidence.host):
        return ""
    if evidence.greeting:
        return f"another server ({printable(evidence.greeting, _MAX_TEXT)})"
    return "another server" if servers.is_of_others(evidence) else ""


def _permission(scope: str) -> str:
    return scope.rpartition("/")[2].lower()


def _values(protocol: str, reply: str, evidence: Evidence) -> dict[str, moves.Value]:
    """Return the values for the fields of the verdicts' templates."""
    claims, user = evidence.claims or Claims(), evidence.user
    port, starttls = (evidence.port, evidence.starttls) if evidence.port else (mail.PORTS[protocol], protocol == "smtp")
    login = moves.REFRESH if claims.application else moves.cms("login", user)
    return {
        "mailbox": for_powershell(user or "USER@DOMAIN"),
        "trustee": for_powershell(claims.user or "PERSON@DOMAIN"),
        "user": user or "the user",
        "login": login,
        "again": moves.fill(_APPLICATION_AGAIN if claims.application else _AGAIN, {"login": login}),
        "check": moves.Command(
            ("cms-oauth", f"--user={user or 'USER@DOMAIN'}", f"--test-{protocol}={evidence.host or 'HOST'}")
        ),
        "claimed": claims.user or "another user",
        "audience": claims.audience,
        "permissions": ", ".join(claims.scopes or claims.roles) or "nothing",
        "app": for_powershell(claims.app or "APPLICATION-ID"),
        "wanted": PERMISSIONS.get(protocol.upper(), ""),
        "app_role": ROLES.get(protocol.upper(), ""),
        "protocol": protocol.upper(),
        "switch": _SWITCHES.get(protocol, ""),
        # Part of commands too.
        "host": str(moves.Command((evidence.host,))) if evidence.host else "HOST",
        "owner": certificates.owner(evidence.host),
        "login_host": _login_host(protocol, evidence),
        "login_place": _login_place(protocol, evidence),
        "reachable": mail.reachable(port, evidence.host),
        "show": certificates.shown_by(protocol, evidence.host or "HOST", port, starttls=starttls),
        "token_of": servers.title(servers.provider_of_account(evidence)),
        "reply": printable(reply, _MAX_TEXT) or "nothing",
        "kind": _service(protocol, evidence.greeting),
        "answer": printable(evidence.greeting, _MAX_TEXT),
        "wanted_scope": challenge.asked(evidence).get("scope", "") or "it does not say which",
        "wanted_issuer": challenge.wanted_issuer(evidence),
        "issuer": claims.issuer,
        "offers": _offers(evidence),
        "challenge": printable(evidence.challenge, _MAX_TEXT) or "it does not say which",
        "wait": span(seconds) if (seconds := wait_of(reply)) is not None else "some minutes",
        "ago": span((evidence.now or 0) - (evidence.skew or 0) - (claims.expires or 0)),
        "skew": f"{span(abs(evidence.skew or 0))} {'ahead' if (evidence.skew or 0) > 0 else 'behind'}",
    }


def _offers(evidence: Evidence) -> str:
    """Return what the server offers, in words. A reply alone does not tell."""
    seen = evidence.offered or evidence.host or evidence.greeting
    return f"it offers: {', '.join(evidence.offered) or 'none'}" if seen else "what it offers is not known"


# Who signs in again, which is nobody for an application.
_AGAIN = "sign in again: {login}"
_APPLICATION_AGAIN = "ask an administrator whether the application is still enabled in Entra and known to Exchange"


def _login_place(protocol: str, evidence: Evidence) -> str:
    """Return the login server of the account's provider for this protocol, else of the host's, else Exchange Online's."""
    row = PROVIDERS.get(servers.provider_of_account(evidence)) or of_host(evidence.host)
    if row is None or row.name == MICROSOFT:
        return f"Exchange Online: {_login_host(protocol, evidence)}"
    host = getattr(row, f"{protocol}_host")
    return (
        f"{row.title}: {host}, port {mail.PORTS[protocol]}"
        if host
        else f"{row.title}: its administrator knows the host"
    )


def _login_host(protocol: str, evidence: Evidence) -> str:
    """Return where Exchange Online takes logins over this protocol, in the cloud that host or token name."""
    token = clouds_of_audience(evidence.claims.audience) if evidence.claims else ()
    names = (cloud_of_exchanger(evidence.host), *clouds_of_server(evidence.host), *token)
    name = "personal" if _is_personal(evidence) else next(filter(None, names), "global")
    cloud = CLOUDS[name]
    hosts = {"smtp": cloud.smtp_host, "imap": cloud.imap_host, "pop": cloud.pop_host}
    return f"{hosts[protocol]}, port {mail.PORTS[protocol]}"


# The configuration arguments for an application's credential.
_CREDENTIAL = "client_secret, certificate or client_assertion"

# Entra's own explanation of an AADSTS number.
_LOOK_UP = "https://login.microsoftonline.com/error?code="
_ERROR_CODES = "https://learn.microsoft.com/en-us/entra/identity-platform/reference-error-codes"


def of_entra(
    aadsts: int | None,
    error: str = "",
    suberror: str = "",
    status: int | None = None,
    *,
    user: str = "",
    redirect: str = "the redirect address",
    retry_after: float | None = None,
    application: bool = False,
) -> tuple[Verdict, ...]:
    """Return the cause of a refusal by Entra, from its AADSTS number, `error`, `suberror` and HTTP status if known.

    `user` and `redirect` are the account and its redirect address, for the commands; `retry_after` is the pause in seconds
    that the answer named; `application` is True for an application that signs in by itself. At least one verdict.
    """
    row = (entra.row_of_application if application else entra.row_of)(aadsts, error, suberror, status)
    said = (f"AADSTS{aadsts}" if aadsts else "", error, suberror, f"HTTP {status}" if status else "")
    shown = printable(", ".join(filter(None, said)), _MAX_TEXT) or "no reason given"
    values: dict[str, moves.Value] = {
        "login": moves.cms("login", user),
        "consent": moves.cms("admin-consent-url", user),
        "again": entra.WAIT_OR_AGAIN if application else entra.AGAIN,
        "redirect": redirect,
        "origin": entra.origin_of(redirect),
        "credential": _CREDENTIAL,
    }
    verdict = fill_in(of_row(row), values)
    takes = verdict.takes if retry_after is None else span(retry_after)
    link = verdict.link or (f"{_LOOK_UP}{aadsts}" if aadsts else _ERROR_CODES)
    return (replace(verdict, cause=f"{verdict.cause[:-1]} ({shown}).", takes=takes, link=link),)


def of_row(row: entra.RefusalRow) -> Verdict:
    """Return a row of Entra's table as a verdict, with its fields not yet filled in; its message becomes a sentence."""
    cause = f"{row.message[0].upper()}{row.message[1:]}."
    return Verdict(row.name, cause, row.mover, row.steps, row.takes, row.link, row.words)


def of_client(code: str, message: str, user: str = "") -> tuple[Verdict, ...]:
    """Return the cause of a failure of the client, from its code (`wire.EXIT_CODES`) and its message. At least one."""
    said = f"{message} ({code})"
    row = next((row for row in local.ROWS if row.pattern.search(said)), None)
    row = row or next((row for row in local.ROWS if row.code == code), None)
    return (fill_in(row.verdict, {"login": moves.cms("login", user)}),) if row else (_unknown(said),)


_FOR_SUPPORT = "give support these identifiers: {identifiers}"


def _unknown(reply: str) -> Verdict:
    """Return the verdict for an unknown reply: the reply on one line, what its code says, and the identifiers for support."""
    known = identifiers_of(reply)
    said = next((meaning for pattern, meaning in mail.CODES if pattern.search(reply)), "")
    steps = (f"read the reply; its code says: {said}",) if said else mail.UNKNOWN.steps
    values = {"reply": printable(reply.strip(), _MAX_TEXT) or "nothing", "identifiers": " ".join(known)}
    return fill_in(replace(mail.UNKNOWN, steps=(*steps, *([_FOR_SUPPORT] if known else []))), values)
